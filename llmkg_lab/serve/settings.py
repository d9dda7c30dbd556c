"""How a server is set up: what it serves, whom it answers, and its limits."""

import ipaddress
from dataclasses import dataclass

from llmkg_lab.base.errors import LabError


@dataclass(frozen=True)
class Settings:
    """Everything that the command line says of a server. Sizes are bytes, times seconds."""

    models: tuple[tuple[str, str], ...] = ()  # (id, folder of the artifact)
    aliases: tuple[tuple[str, str], ...] = ()  # (another name, id)
    host: str = "127.0.0.1"
    port: int = 8000
    tokens: tuple[str, ...] = ()  # bearer tokens; none: whoever reaches the port may ask
    hosts: tuple[str, ...] = ()  # names in Host that are answered beside those of loopback
    origins: tuple[str, ...] = ()  # of web pages that may ask (CORS)
    slots: int = 8  # sequences of one model decoded side by side
    context: int = 4096  # tokens of a sequence at most; less where the model has less
    threads: int | None = None
    memory: int | None = None  # for loaded models; by default half of the machine's
    queue: int = 128  # sequences that may wait for a model's slots
    inputs: int = 512  # texts of one embedding or rerank request, prompts of one completion
    body: int = 8 << 20
    timeout: float = 600.0  # of a request, waiting included
    upload: int = 30  # until a request's head is there, and until its body is
    grace: float = 30.0  # for what runs when the server is told to end
    ping: float = 15.0  # between two comments in a silent stream
    preload: bool = True
    knowledge: str = ""  # folder of the graph that /mcp serves; empty: there is no /mcp
    outputs: str = ""  # folder whose registry names the models of /mcp
    embedder: str = ""  # of the graph; empty: what the registry recommends

    def __post_init__(self) -> None:
        if not self.loopback and not self.tokens:
            raise LabError(
                f"{self.host} can be reached from other machines, and no token is set",
                "put tokens into LLMKG_LAB_TOKENS or --tokens FILE, or bind to 127.0.0.1",
            )
        for name in ("slots", "context", "queue", "inputs", "body", "timeout", "grace", "ping"):
            if getattr(self, name) <= 0:
                raise LabError(f"{name} is {getattr(self, name)}", "it has to be above 0")

    @property
    def loopback(self) -> bool:
        """Whether this machine alone reaches the port."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
