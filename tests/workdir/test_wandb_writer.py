"""Weights & Biases, offline: what it would upload is in a folder."""

import pytest

from tests.commands import FAST, run_alone

TASK = "--config.tasks.generate=1", "--config.log.wandb=team/studies"


@pytest.mark.thorough
def test_a_run_and_its_resumption_are_one_run_there(tmp_path):
    for steps in (4, 8):
        run_alone(
            "train", *FAST, *TASK, f"--workdir={tmp_path}/run", f"--config.steps={steps}",
            WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=str(tmp_path),
        )  # fmt: skip
    starts = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert len(starts) == 2
    assert len({path.name.rpartition("-")[2] for path in starts}) == 1
    for path in starts:
        (log,) = path.glob("*.wandb")
        sent = log.read_bytes()
        assert all(word in sent for word in (b"studies", b"loss", b"optimizer.lr"))
        (gif,) = path.glob("files/media/videos/samples/*.gif")
        assert gif.read_bytes().startswith(b"GIF8")


@pytest.mark.thorough
def test_without_a_login_nothing_is_trained(tmp_path):
    said = run_alone(
        "train", *FAST, *TASK, f"--workdir={tmp_path}/run", expect=1,
        WANDB_MODE="online", WANDB_API_KEY="", NETRC=f"{tmp_path}/none", HOME=str(tmp_path),
    )  # fmt: skip
    assert "config.log.wandb=team/studies: " in said
    assert "wandb login" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run/checkpoints/3").exists()
