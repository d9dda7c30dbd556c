"""What a panel gets: the model under study, a queue for its work, and what all panels wait for."""

from llmkg_lab.explorer.bench.jobs import Job, Worker
from llmkg_lab.explorer.bench.state import State


class Bench:
    """One state and one queue for all panels, which know of each other only through them.

    wait: a cell that shows a panel first does its work, so that the notebook is a report.
    """

    opening: Job | None = None  # the model that is chosen
    weighing: Job | None = None  # its sensitivities; the end of ``opening`` starts it

    def __init__(self, wait: bool = False) -> None:
        self.state, self.worker, self.wait = State(), Worker(), wait

    def wait_until_open(self, timeout: float) -> None:
        """Wait for the work that every panel needs.

        Args:
            timeout: seconds for each of the two jobs.

        Raises:
            TimeoutError: One of them takes longer.
        """
        if self.opening:
            self.opening.wait(timeout)
        if self.weighing:
            self.weighing.wait(timeout)

    def close(self) -> None:
        """Stop what runs, and end the queue's thread."""
        self.worker.close()
