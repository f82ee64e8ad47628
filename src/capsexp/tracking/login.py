"""The Weights & Biases login: whether it exists, without a prompt, and its default entity."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit


def has_login() -> bool:
    """True if there is an API key: in the environment, or in the file of ``wandb login``."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    server = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    hosts = {urlsplit(server).netloc, "api.wandb.ai"}  # `wandb login` writes the first; older ones wrote the second
    try:
        logins = netrc.netrc(os.environ.get("NETRC") or Path.home() / ".netrc")
    except (OSError, RuntimeError, UnicodeDecodeError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(host) for host in hosts)


def default_entity() -> str | None:
    """The default entity of the login; the server is queried."""
    import wandb

    entity: str | None = wandb.Api().default_entity
    return entity
