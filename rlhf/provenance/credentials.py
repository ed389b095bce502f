"""Keys, tokens and passwords in files: what looks like one stays out of the patch that is kept of a run.

detect-secrets knows the tokens of many services, and values of variables whose names speak of secrets. What it was
measured not to find is here: HTTP headers, Hugging Face, GitHub's long tokens, Google, OpenAI, secrets in the query of
an address, and values without quotation marks. A line that is held back wrongly can be marked with its comment
`pragma: allowlist secret`; it knows no other exception here but names of variables.
"""

import fnmatch
import re
from collections.abc import Iterator
from pathlib import PurePath

from rlhf.text.lines import lines_of

_NAMES = (
    *(".env", ".env.*", "*.env", ".netrc", ".pypirc", ".pgpass", ".npmrc", ".git-credentials"),
    *("*.pem", "*.key", "*.pfx", "*.p12", "*.jks", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *("*credential*", "*secret*", "*password*", "*.token", "token.txt", "config.local"),
)
# What keys and tokens look like: PEM, AWS, Hugging Face, GitHub, GitLab, Slack, Google, OpenAI, headers of HTTP,
# passwords and tokens within addresses, and settings whose names say so.
_PATTERNS = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bhf_[A-Za-z0-9]{30,}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b"
    rb"|\bgithub_pat_\w{22,}|\bglpat-[\w-]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{35}|\bsk-[A-Za-z0-9_-]{20,}"
    rb"|\b[a-z][a-z0-9+.-]*://[^\s/:@\"'{}]+:[^\s/@\"'{}]{8,}@"
    rb"|(?i:\bauthorization\b[\"']?\s*[:=,]\s*[\"']?(?:bearer|basic|token)\s+[\w.~+/=-]{8,})"
    rb"|(?i:\bbearer\s+(?=[\w.~+/=-]*\d)[\w.~+/=-]{16,})"
    rb"|(?i:discord(?:app)?\.com/api/webhooks/\d+/[\w-]+)"
    rb"|(?i:[?&](?:[a-z_-]*token|api_?key|key|sig|[a-z-]*signature|secret|passw(?:or)?d)=(?=[\w%.~+/-]*\d)[\w%.~+/-]{8,})"
    rb"|(?i:aws_secret_access_key|api[_-]?key|auth[_-]?token)[\"']?\s*[:=]\s*[\"'][^\"'\s]{16,}[\"']"
    rb"|(?im:^\s*(?:export\s+)?[\w.-]*(?:secret|api[_-]?key|token|passw(?:or)?d)[\w.-]*\s*[:=]\s*(?=\S*\d)"
    rb"[A-Za-z0-9+/_.=-]{16,}\s*$)"
)
# In Python what stands without quotation marks is a name.
_PLAIN = re.compile(
    rb"(?im)^\s*(?:export\s+)?[\w.-]*(?:secret|passw(?:or)?d|passphrase)[\w.-]*\s*[:=]\s*(?!=)(?=\S*\d)\S{6,}$"
)
_ALLOWED = b"pragma: allowlist secret"
_PLUGINS = (
    *("ArtifactoryDetector", "AWSKeyDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "CloudantDetector"),
    *("DiscordBotTokenDetector", "GitHubTokenDetector", "GitLabTokenDetector", "IbmCloudIamDetector"),
    *("IbmCosHmacDetector", "JwtTokenDetector", "KeywordDetector", "MailchimpDetector", "NpmDetector"),
    *("OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector", "SendGridDetector", "SlackDetector"),
    *("SoftlayerDetector", "SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector", "TwilioKeyDetector"),
)
"""All but those that call every random string and every address of a machine a secret: hashes are what is kept here."""
_FILTERS = (
    *("allowlist.is_line_allowlisted", "heuristic.is_indirect_reference", "heuristic.is_likely_id_string"),
    *("heuristic.is_not_alphanumeric_string", "heuristic.is_potential_uuid", "heuristic.is_prefixed_with_dollar_sign"),
    *("heuristic.is_sequential_string", "heuristic.is_templated_secret"),
)
_NAME_OF_A_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_LONGEST_LINE = 4000


def has_secret_name(name: str) -> bool:
    """Whether a file's name is that of a file of secrets. Code may speak of secrets in its name."""
    path = PurePath(name)
    return path.suffix != ".py" and any(fnmatch.fnmatch(path.name.lower(), pattern) for pattern in _NAMES)


def holds_secret(content: bytes, name: str) -> bool:
    """Whether a file holds what looks like a key, a token or a password.

    Args:
        content: of the file.
        name: of the file, whose suffix says whether it is Python.
    """
    content = b"\n".join(line for line in content.split(b"\n") if _ALLOWED not in line)
    if _PATTERNS.search(content) or (not name.endswith(".py") and _PLAIN.search(content)):
        return True
    return any(_is_secret(kind, value) for kind, value in _findings(content.decode("utf-8", errors="replace")))


def _findings(text: str) -> Iterator[tuple[str, str]]:
    """Kind and value of all that detect-secrets finds, line by line. It takes a fifth of a second to import."""
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import transient_settings

    settings = {
        "plugins_used": [{"name": name} for name in _PLUGINS],
        "filters_used": [{"path": f"detect_secrets.filters.{path}"} for path in _FILTERS],
    }
    with transient_settings(settings):
        for line in lines_of(text):
            for start in range(0, len(line), _LONGEST_LINE):
                # What is cut in two by that is found in neither part, so that parts overlap.
                for secret in scan_line(line[max(0, start - 200) : start + _LONGEST_LINE]):
                    yield secret.type, secret.secret_value or ""


def _is_secret(kind: str, value: str) -> bool:
    """`PASSWORD_VARIABLE = "RLHF_PASSWORD"` says where the password is, and not what it is."""
    return kind != "Secret Keyword" or _NAME_OF_A_VARIABLE.fullmatch(value) is None
