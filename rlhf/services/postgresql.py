"""The PostgreSQL database that both servers can share: its address, which may hold a password, and its schemas.

No message shows the address, since nobody can tell how much of an address that is written wrongly is the password.
"""

import re
from urllib.parse import parse_qs, quote, unquote, urlsplit

from rlhf.errors import ConfigError

DATABASE_VARIABLE = "RLHF_DATABASE"
"""In place of --database, where the address holds a password: others see a process's arguments."""
SCHEMAS = {"prefect": "prefect,public", "mlflow": "mlflow"}
_FORM = "postgresql://USER@HOST:PORT/NAME"
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_RESERVED = re.compile(r"[@:/?#\[\] ]")


def has_password(address: str) -> bool:
    """Whether an address may hold a password, be it written wrongly."""
    rest = address.partition("://")[2]
    user, at, _ = rest.rpartition("@")
    return bool(at and ":" in user) or "password=" in rest.lower()


def check_address(address: str, where: str) -> None:
    """Refuse an address that PostgreSQL's clients could not read, or would each read in their own way.

    Args:
        address: of the database.
        where: it was given, for the message: a flag or a variable.

    Raises:
        ConfigError: says what is wrong, and shows no part of the address.
    """
    scheme, _, rest = address.partition("://")
    if scheme != "postgresql":
        raise ConfigError(f"{where} is not of the form {_FORM}")
    user, _, host = rest.rpartition("@")
    if _BAD_PERCENT.search(rest) or _RESERVED.search(user.replace(":", "", 1)):
        raise ConfigError(
            f"{where}: the user or password holds a character that stands for something else in an address, such as "
            "%, /, @, :, ? or #; percent-encode it (% as %25, / as %2F, @ as %40), as in postgresql://me:50%25@HOST/NAME"
        )
    if not _is_host_and_port(host):
        raise ConfigError(f"{where} is not of the form {_FORM}: host or port cannot be read; correct them")


def prepare_database(address: str, where: str) -> None:
    """Make the schemas that the two servers have in one database.

    Args:
        address: of the database.
        where: it was given, for the message.

    Raises:
        ConfigError: the address cannot be read, or the database does not answer, or refuses.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    check_address(address, where)
    try:
        conninfo_to_dict(address)
    except psycopg.Error:  # its text shows the address
        raise ConfigError(f"{where}: PostgreSQL cannot read this address; write it as {_FORM}") from None
    try:
        with psycopg.connect(address, connect_timeout=5) as connection:
            for schema in SCHEMAS:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
    except psycopg.Error as error:
        parts = urlsplit(address)
        reason = " ".join(str(error).split())
        said = "" if any(secret in reason for secret in _passwords(address)) else f": {reason}"
        raise ConfigError(
            f"{where}: PostgreSQL at {parts.hostname}:{parts.port or 5432} does not do{said}; look whether it runs, "
            "and lets this user in"
        ) from None


def for_prefect(address: str) -> str:
    """The address as Prefect's server takes it."""
    return address.replace("postgresql://", "postgresql+asyncpg://", 1)


def for_mlflow(address: str) -> str:
    """The address as MLflow's server takes it, which keeps its tables in a schema of their own."""
    joint = "&" if urlsplit(address).query else "?"
    options = quote(f"-csearch_path={SCHEMAS['mlflow']}")
    return f"{address.replace('postgresql://', 'postgresql+psycopg://', 1)}{joint}options={options}"


def _is_host_and_port(text: str) -> bool:
    try:
        parts = urlsplit(f"postgresql://{text}")
        return parts.port != 0 and bool(parts.hostname or "host=" in parts.query)
    except ValueError:
        return False


def _passwords(address: str) -> list[str]:
    parts = urlsplit(address)
    given = [parts.password or "", *parse_qs(parts.query).get("password", ())]
    return [secret for password in given if password for secret in {password, unquote(password)}]
