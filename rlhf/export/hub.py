"""A policy on a hub: private unless somebody says otherwise, and looked at once it is there."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from rlhf.chat.policies import ChatPolicy
from rlhf.errors import InputError, ModelError, one_line
from rlhf.export.answers import answers, first_difference
from rlhf.export.folder import copied
from rlhf.files.manifest import hash_files


@dataclass(frozen=True)
class Pushed:
    """What is on the hub.

    Attributes:
        url: of the repository.
        commit: that was made.
        private: as the hub says.
        num_prompts: to which both gave the same tokens.
    """

    url: str
    commit: str
    private: bool
    num_prompts: int


def check_name(name: str) -> None:
    """Refuse what names no repository.

    Raises:
        InputError: it is not OWNER/NAME.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"{name}: this names no repository of a hub ({one_line(error)}); give OWNER/NAME") from None
    if "/" not in name:
        raise InputError(f"{name}: this names no repository of a hub: the owner is missing; give OWNER/NAME")


def push(policy: ChatPolicy, name: str, public: bool, what: str) -> Pushed:
    """Push a checked copy as a commit, fetch that commit, and see that it has the same files and answers.

    Args:
        policy: what is pushed.
        name: OWNER/NAME; made if need be, and a repository that is there gets another commit.
        public: who may see a repository that is made.
        what: the message of the commit.

    Raises:
        InputError: the hub refuses: no token, no right, no such owner.
        ModelError: what is there differs from what was pushed.
    """
    api = HfApi()
    with (
        tempfile.TemporaryDirectory(prefix="rlhf-export-") as scratch,
        copied(policy, Path(scratch) / "policy") as copy,
    ):
        try:
            api.create_repo(name, private=not public, exist_ok=True)
            done = api.upload_folder(repo_id=name, folder_path=copy.folder, commit_message=what)
            private = bool(api.model_info(name).private)
            fetched = Path(api.snapshot_download(name, revision=done.oid, local_dir=Path(scratch) / "fetched"))
        except HfHubHTTPError as error:
            raise InputError(
                f"{name}: the hub at {api.endpoint} refused ({one_line(error)}); log in with `hf auth login` or set "
                "HF_TOKEN to a token that may write there"
            ) from error
        wanted, there = hash_files(copy.folder), hash_files(fetched)
        differing = [file for file in wanted if there.get(file) != wanted[file]]
        if differing:
            raise ModelError(f"{name}: {differing[0]} on the hub differs from what was pushed; push again")
        difference = first_difference(copy.answers, answers(fetched, copy.asked))
        if difference is not None:
            raise ModelError(f"{name}: the model on the hub does not answer as before: {difference}; push again")
    return Pushed(f"{api.endpoint}/{name}", done.oid, private, len(copy.answers))
