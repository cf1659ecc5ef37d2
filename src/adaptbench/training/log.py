"""What a training leaves to be known of it: what it cost, how it went, what was chosen."""

from dataclasses import dataclass, field

from adaptbench.data.batching import Shape
from adaptbench.scoring.limits import PassSize


@dataclass
class TrainingLog:
    """What happened: per run the shape of every batch (what it would have been alone), losses and failures."""

    shapes: list[list[Shape]] = field(default_factory=list)  # R lists of one shape per step that the run has taken
    losses: list[list[float]] = field(default_factory=list)  # one list of R losses per step
    final_losses: dict[int, float] = field(default_factory=dict)  # run -> loss of the last step that it has taken
    failures: dict[int, str] = field(default_factory=dict)  # run -> why it failed
    trained_parameters: int | None = None  # of one run, while it trained
    halvings: int = 0  # how often memory ran out, and a pass was repeated with half its rows, or of its row's choices
    most: PassSize = field(default_factory=PassSize)  # the largest pass of a step, since memory last ran out
    most_read: PassSize = field(default_factory=PassSize)  # likewise of a pass that is only read
    slices: int = 1  # in how many passes the choices of a row were read, at most
    predicted: list[list[Shape]] = field(default_factory=list)  # R lists of what was only read, to choose by
    selected: list[dict[str, float]] = field(default_factory=list)  # of every run, the hyper-parameters chosen on shots
    nats: list[dict[float, float]] = field(default_factory=list)  # and of every candidate its log-loss on shots
    best: list["BestState"] = field(default_factory=list)  # of every run that had development rows


@dataclass
class BestState:
    """The state of a run that was kept: the first with the best score of its development rows."""

    step: int = 0
    score: float | None = None
    looks: int = 0  # how often the development rows were scored
