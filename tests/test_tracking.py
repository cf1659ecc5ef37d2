"""Records are mirrored to a tracker if asked; whatever that does, no result is lost and none is mirrored twice."""

import sys
from pathlib import Path

import pytest

from adaptbench import preflight, tracking
from adaptbench.launch import progress, workers
from adaptbench.launch.outcome import Outcome
from adaptbench.record import KEYS, RunRecord
from adaptbench.schema import TrackingConfig
from adaptbench.tracking import NoTracker, WandbTracker, tracker
from tests.end_to_end.conftest import call  # noqa: F401  (a fixture)
from tests.end_to_end.test_runs import records

SMALL = ("method=zero_shot", "model=micro_gpt_s", "limit=4", "progress=false", "tracking=wandb")


class Service:
    """wandb as far as it is used here: remembers what was sent, and fails where and as often as it is told to."""

    Settings = dict

    def __init__(self) -> None:
        self.runs: list[Run] = []  # those that were finished: what counts as sent
        self.started: list[dict] = []
        self.fails: dict[str, int] = {}  # "init" or "finish" -> how often

    def setup(self, _settings: dict) -> None:
        pass

    def login(self, **_options: bool) -> bool:
        return True

    def init(self, **options: object) -> "Run":
        self.started.append(options)
        self.perhaps_fail("init")
        return Run(self, options)

    def perhaps_fail(self, at: str) -> None:
        if self.fails.get(at, 0) > 0:
            self.fails[at] -= 1
            raise ConnectionError(f"{at}: the service\nis gone")

    @property
    def sent(self) -> list[str]:
        return sorted(str(run.options["id"]) for run in self.runs)


class Run:
    def __init__(self, service: Service, options: dict):
        self.service, self.options, self.summary = service, options, {}

    def finish(self) -> None:
        self.service.perhaps_fail("finish")
        self.service.runs.append(self)


@pytest.fixture
def service(monkeypatch):
    """A fake service in the place of wandb, in a process that knows of no outage."""
    forget()
    fake = Service()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    yield fake
    forget()


def forget() -> None:
    """As a new process: it has neither tried the tracker nor lost it."""
    tracking.out_of_reach.clear()
    progress._warned.clear()
    preflight._tracking.cache_clear()


def record(run_id: str = "0123456789abcdef", **changes: object) -> RunRecord:
    values: dict[str, object] = dict.fromkeys(KEYS)
    values |= {"run_id": run_id, "experiment": "e", "method": "ia3", "model": "m", "dataset": "d", "seed": 7}
    values |= {"score": 0.5, "provenance.config": {"shots": 3}, "provenance.finished": "2024-01-01T00:00:00+00:00"}
    return RunRecord({**values, **changes})


def wandb_tracker(folder: Path, **changes: str) -> WandbTracker:
    return WandbTracker(TrackingConfig(**{"name": "wandb", **changes}), folder)


def test_nothing_is_tracked_unless_it_is_asked_for(tmp_path):
    assert isinstance(tracker(TrackingConfig(), tmp_path), NoTracker)
    assert isinstance(tracker(TrackingConfig("wandb", mode="disabled"), tmp_path), NoTracker)
    assert isinstance(tracker(TrackingConfig("wandb"), tmp_path), WandbTracker)


def test_a_record_becomes_a_run_of_the_same_id_with_its_numbers(service, tmp_path):
    wandb_tracker(tmp_path, project="mine", mode="online").log(record())
    (run,) = service.runs
    assert run.options["id"] == "0123456789abcdef"
    assert (run.options["project"], run.options["mode"], run.options["group"]) == ("mine", "online", "m-d")
    assert run.options["config"] == {"shots": 3}
    assert run.summary["score"] == 0.5
    assert not [key for key in run.summary if key.startswith("provenance.")]
    assert None not in run.summary.values()  # what was not measured is left out


def test_a_record_is_mirrored_once_whichever_process_asks(service, tmp_path):
    for _ in range(3):
        wandb_tracker(tmp_path).log(record())
    assert service.sent == ["0123456789abcdef"]


def test_another_project_mode_or_outcome_is_another_mirror(service, tmp_path):
    wandb_tracker(tmp_path).log(record())
    wandb_tracker(tmp_path, project="a/b").log(record())
    wandb_tracker(tmp_path, mode="online").log(record())
    wandb_tracker(tmp_path).log(
        record(**{"provenance.finished": "2025-01-01T00:00:00+00:00"})
    )  # deleted, and run again
    assert len(service.runs) == 4


@pytest.mark.parametrize("at", ["init", "finish"])
def test_an_outage_never_raises_and_the_next_process_catches_up(service, tmp_path, at):
    service.fails = {at: 1}
    wandb_tracker(tmp_path).log(record("a" * 16))
    wandb_tracker(tmp_path).log(record("b" * 16))
    assert tracking.out_of_reach == {"tracking=wandb (offline)": f"{at}: the service is gone"}
    assert (len(service.started), service.sent) == (1, [])  # the second one did not wait for it again
    forget()
    for run_id in ("a" * 16, "b" * 16):
        wandb_tracker(tmp_path).log(record(run_id))
    assert service.sent == ["a" * 16, "b" * 16]


def test_a_marker_that_cannot_be_written_is_no_reason_to_lose_a_result(service, tmp_path):
    (tmp_path / "tracked").touch()
    wandb_tracker(tmp_path).log(record())
    assert list(tracking.out_of_reach) == ["tracking=wandb (offline)"]


def lines(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.strip()]


@pytest.mark.parametrize("at", ["init", "finish"])
def test_a_sweep_goes_on_without_its_tracker_warns_once_and_is_caught_up(call, capsys, service, tmp_path, at):  # noqa: F811
    sweep = ("-m", *SMALL, "dataset=micro_cb,micro_rte", "seeds=[0,1]", "tracking.mode=online")
    service.fails = {at: 10}
    assert call(*sweep) == 0
    found = set(records(tmp_path / "outputs/default"))
    assert (len(found), service.sent) == (4, [])
    assert lines(capsys) == [
        f"warning: tracking=wandb (online): {at}: the service is gone; runs go on, and the next call mirrors what is "
        "missing"
    ]
    forget()
    service.fails = {}
    assert call(*sweep) == 0
    assert service.sent == sorted(found)
    assert lines(capsys) == []
    forget()
    assert call(*sweep) == 0
    assert service.sent == sorted(found)  # not twice


def test_what_was_finished_before_a_tracker_was_asked_for_is_mirrored_too(call, service, tmp_path):  # noqa: F811
    assert call(*SMALL[:-1], "seeds=[0,1]") == 0
    assert service.runs == []
    assert call(*SMALL, "seeds=[0,1,2]") == 0
    assert service.sent == sorted(records(tmp_path / "outputs/default"))
    assert len(service.sent) == 3


def test_an_outage_in_a_worker_is_said_by_its_parent(monkeypatch, capsys):
    """Workers have no fake service; what they send back is what counts."""
    forget()
    outcome = Outcome(unreached={"tracking=wandb (online)": "gone"})

    class Pool:
        def __init__(self, *_: object, **__: object):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, _function: object, cell: object):
            return Done(cell)

    class Done:
        def __init__(self, cell: object):
            self.cell = cell

        def result(self):
            return outcome

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(workers, "as_completed", list)
    assert [cell for cell, _ in workers.run_in_parallel(["first", "second"], workers=2)] == ["first", "second"]
    assert len(lines(capsys)) == 1
    forget()
