"""Training: repeatable, interruptible, cached, and never mixing people."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeseq import nn as cells
from edgeseq.config import Config, Train, parse_config
from edgeseq.data import Windows, load_set, normalisation, windows
from edgeseq.errors import ConfigError, DataError, TrainError
from edgeseq.nn._classifier import PerFrame
from edgeseq.train import (
    Event,
    _checkpoint,
    evaluate_float,
    load_trained,
    score,
    train,
    train_candidates,
)
from edgeseq.train._batches import WindowSource, rotations
from edgeseq.train._epochs import learning_rate


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two easy classes, five people: a slow and a fast wave in three channels."""
    rng = np.random.default_rng(0)
    frames, lengths, labels, groups = [], [], [], []
    for group in range(5):
        for label in range(2):
            for _ in range(2):
                length = int(rng.choice([65, 85]))
                t = np.arange(length) * (0.2 if label else 0.6) + rng.uniform(0, 6)
                wave = np.stack([np.sin(t), np.cos(t), np.sin(2 * t)], axis=1) * 5 + 20
                frames.append(wave + rng.normal(size=wave.shape))
                lengths.append(length)
                labels.append(label)
                groups.append(group)
    path = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(
        path,
        x=np.concatenate(frames),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        y=np.array(labels),
        group=np.array(groups),
        channels=np.array(["u", "v", "w"]),
    )
    return path


@pytest.fixture
def settings(own_data: Path) -> Callable[..., Config]:
    def make(model: str = "hidden = 6", training: str = "epochs = 3", augment: str = "") -> Config:
        if "batch_size" not in training:
            training += "\nbatch_size = 16"
        return parse_config(
            f'[data]\npath = "{own_data}"\nwindow = 20\nhop = 10\ntest_groups = [4]\n'
            f"[model]\n{model}\n[train]\nlr = 0.02\nloss_frames = 5\n{training}\n"
            f"[train.augment]\n{augment}\n"
        )

    return make


AUGMENT = """
noise = 0.05
scale = 0.1
time_warp = 0.1
rates = ["w"]
rotate_deg = 10
vectors = [["u", "v", "w"]]
mirror = [-1, 1, 1]
"""


def test_it_learns(settings: Callable[..., Config], tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(settings(training="epochs = 12"), tmp_path, events.append)
    assert result.metrics["test_accuracy"] > 0.9
    assert not result.cached
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert [e.epoch for e in events if e.val_loss is not None and not e.done] == list(range(1, 13))
    assert events[-1].done
    assert all(0 <= e.accuracy <= 1 and e.seconds_left >= 0 for e in events)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "trained.json"]


def test_the_same_settings_give_the_same_bits(
    settings: Callable[..., Config], tmp_path: Path
) -> None:
    config = settings(augment=AUGMENT)
    one = train(config, tmp_path / "one")
    torch.manual_seed(1234)  # what the caller draws has no influence, and is left alone
    before = torch.get_rng_state()
    two = train(config, tmp_path / "two")
    assert torch.equal(before, torch.get_rng_state())
    assert one.checkpoint.read_bytes() == two.checkpoint.read_bytes()
    assert one.history == two.history
    other = train(settings(augment=AUGMENT, training="epochs = 3\nseed = 1"), tmp_path / "three")
    assert one.checkpoint.read_bytes() != other.checkpoint.read_bytes()


def test_nothing_is_trained_twice(settings: Callable[..., Config], tmp_path: Path) -> None:
    config = settings()
    first = train(config, tmp_path)
    events: list[Event] = []
    second = train(config, tmp_path, events.append)
    assert second.cached
    assert [e.cached for e in events] == [True]
    assert second.metrics == first.metrics
    assert second.history == first.history
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])
    # Settings that have no part in training do not retrain; those that have, do.
    unrelated = config.model_copy(
        update={"quant": config.quant.model_copy(update={"weight_bits": 16})}
    )
    assert train(unrelated, tmp_path).cached
    assert not train(settings(training="epochs = 2"), tmp_path).cached


def test_changed_data_or_damage_retrains(
    settings: Callable[..., Config], own_data: Path, tmp_path: Path
) -> None:
    config = settings(training="epochs = 1")
    kept = train(config, tmp_path)
    data = load_set(own_data)
    data.recordings[0].frames[0, 0] += 1.0
    assert not train(config, tmp_path, data=replace(data, sha256="changed")).cached
    payload = bytearray(kept.checkpoint.read_bytes())
    payload[-1] ^= 1
    kept.checkpoint.write_bytes(bytes(payload))
    with pytest.raises(TrainError, match="SHA-256"):
        load_trained(tmp_path)
    assert not train(config, tmp_path).cached
    assert train(config, tmp_path).cached


class Stopped(Exception):
    pass


@pytest.mark.parametrize("at", [1, 3, 5, 8])
def test_an_interrupted_run_ends_with_the_same_bits(
    settings: Callable[..., Config], tmp_path: Path, at: int
) -> None:
    config = settings("hidden = 6\ndropout = 0.3", "epochs = 3\nbatch_size = 4", AUGMENT)
    whole = train(config, tmp_path / "whole")
    seen = 0

    def stop(event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            raise Stopped

    with pytest.raises(Stopped):
        train(config, tmp_path / "cut", stop)
    with pytest.raises(TrainError, match="holds no trained model"):
        load_trained(tmp_path / "cut")
    resumed = train(config, tmp_path / "cut")
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert resumed.history == whole.history
    assert resumed.metrics == whole.metrics


def killed(config: Config, folder: Path, rename: int, after: bool) -> bool:
    """Train in a child that kills itself just before or after a rename. Was it killed?

    A fork, so that the child need not import torch again; SIGKILL runs no handler and no cleanup.
    """
    child = os.fork()
    if child == 0:
        renames, real = 0, os.replace

        def replace_and_die(source: Path, target: Path) -> None:
            nonlocal renames
            renames += 1
            if renames == rename and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)
            if renames == rename:
                os.kill(os.getpid(), signal.SIGKILL)

        _checkpoint.os.replace = replace_and_die  # type: ignore[assignment]
        try:
            train(config, folder)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked child")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_write(
    settings: Callable[..., Config], tmp_path: Path, after: bool
) -> None:
    """Three epochs rename three checkpoints, the weights and the description: die at each."""
    config = settings("hidden = 6\ndropout = 0.3", "epochs = 3", AUGMENT)
    whole = train(config, tmp_path / "whole")
    for rename in range(1, 6):
        folder = tmp_path / f"cut{rename}"
        assert killed(config, folder, rename, after)
        resumed = train(config, folder)
        assert resumed.cached == (after and rename == 5)
        assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
        assert resumed.history == whole.history
        left = {p.name for p in folder.iterdir()} - {"resume.pt"}
        assert left == {"model.safetensors", "trained.json"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked child")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_again_and_again(settings: Callable[..., Config], tmp_path: Path) -> None:
    """Every attempt gets one epoch further: its first rename is the next checkpoint."""
    config = settings("hidden = 6\ndropout = 0.3", "epochs = 3", AUGMENT)
    whole = train(config, tmp_path / "whole")
    for _ in range(3):
        assert killed(config, tmp_path / "cut", 1, after=True)
    assert train(config, tmp_path / "cut").checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_a_damaged_checkpoint_is_named(settings: Callable[..., Config], tmp_path: Path) -> None:
    for payload in (b"", b"not a checkpoint", b"PK\x03\x04 cut off"):
        (tmp_path / "resume.pt").write_bytes(payload)
        with pytest.raises(TrainError, match=r"resume\.pt: is damaged or not a checkpoint"):
            train(settings(), tmp_path)
    torch.save([1, 2], tmp_path / "resume.pt")
    with pytest.raises(TrainError, match="is not a checkpoint of edgeseq"):
        train(settings(), tmp_path)
    torch.save({"key": "of another run"}, tmp_path / "resume.pt")
    with pytest.raises(TrainError, match="lacks average"):
        train(settings(), tmp_path)


def test_a_checkpoint_cannot_run_code(settings: Callable[..., Config], tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "ran"),))  # type: ignore[return-value]

    torch.save({"key": Hostile()}, tmp_path / "resume.pt")
    with pytest.raises(TrainError, match="not a checkpoint"):
        train(settings(), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_read_only_folder(settings: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match="cannot be written to") as caught:
        train(settings(), tmp_path / "file" / "below")
    assert caught.value.fix


def test_early_stopping_keeps_the_best(settings: Callable[..., Config], tmp_path: Path) -> None:
    config = settings(training="epochs = 40\npatience = 2\nschedule = 'constant'\nema = 0.0")
    result = train(config, tmp_path)
    best = int(result.metrics["best_epoch"])
    losses = [entry.val_loss for entry in result.history]
    assert losses[best - 1] == min(losses)
    assert result.metrics["validation_loss"] == pytest.approx(min(losses), abs=1e-6)
    assert len(losses) == best + 2 < 40


def test_a_diverging_run_ends_with_an_error(
    settings: Callable[..., Config], tmp_path: Path
) -> None:
    config = settings('cell = "rnn_relu"\nhidden = 6')
    wild = config.model_copy(
        update={
            "train": config.train.model_copy(
                update={"lr": 1e30, "clip_norm": 0.0, "clip_value": 0.0, "warmup": 0.0}
            )
        }
    )
    with pytest.raises(TrainError, match="the loss is not finite in epoch 1"):
        train(wild, tmp_path)


def test_settings_must_fit_the_data(settings: Callable[..., Config], tmp_path: Path) -> None:
    for augment, text in {
        'rates = ["x"]': "unknown channel 'x'",
        "mirror = [1, -1]": "mirror has 2 signs for 3 channels",
    }.items():
        with pytest.raises(ConfigError, match=text):
            train(settings(augment=augment), tmp_path)
    with pytest.raises(ConfigError, match="2 candidates"):
        train(settings("hidden = [4, 6]"), tmp_path)
    config = settings()
    wrong = config.model_copy(update={"data": config.data.model_copy(update={"window": 500})})
    with pytest.raises(DataError, match="no window of 500 frames fits"):
        train(wrong, tmp_path)


def test_candidates(settings: Callable[..., Config], tmp_path: Path) -> None:
    results = train_candidates(settings("hidden = [4, 6]", "epochs = 1"), tmp_path)
    assert [r.meta["name"] for r in results] == ["gru6", "gru4"]
    assert (tmp_path / "gru4" / "model.safetensors").is_file()


@pytest.mark.parametrize("cell", cells.cells())
@pytest.mark.parametrize("extra", ["", 'layers = 3\nnorm = "layer"\nresidual = true'])
def test_every_cell_trains_and_comes_back(
    settings: Callable[..., Config], tmp_path: Path, cell: str, extra: str
) -> None:
    config = settings(f'cell = "{cell}"\nhidden = 5\n{extra}', "epochs = 1")
    result = train(config, tmp_path)
    module, meta = load_trained(tmp_path)
    x = torch.randn(4, 20, 3) * 5 + 20
    with torch.no_grad():
        assert torch.equal(module(x), result.model(x))
        assert torch.allclose(PerFrame(module)(x)[:, -1], module(x), atol=1e-6)
    assert not module.training
    assert meta["channels"] == ["u", "v", "w"]
    # Normalised with the training people alone.
    data = load_set(config.data.source)
    mean, std = normalisation(data.take(meta["split"]["train"]), data.channels)
    assert np.array_equal(module.mean.numpy(), mean)
    assert np.allclose(module.gain.numpy(), 1 / std, rtol=1e-6)
    assert not set(meta["split"]["validation"]) & set(meta["split"]["test"])


def test_initial_weights() -> None:
    torch.manual_seed(0)
    lstm = cells.build("lstm", 7, 16, 3).layers[0]
    assert isinstance(lstm, nn.LSTM)
    forget = (lstm.bias_ih_l0 + lstm.bias_hh_l0)[16:32]
    assert torch.equal(forget, torch.ones(16))
    assert torch.count_nonzero(lstm.bias_ih_l0) == 16
    for cell, gates in {"lstm": 4, "gru": 3, "rnn": 1, "rnn_relu": 1}.items():
        layer = cells.build(cell, 7, 16, 3).layers[0]
        blocks = layer.weight_hh_l0.split(16)  # type: ignore[union-attr,operator]
        assert len(blocks) == gates
        for block in blocks:
            assert torch.allclose(block @ block.T, torch.eye(16), atol=1e-5)
        largest = layer.weight_ih_l0.abs().max().item()  # type: ignore[union-attr,operator]
        bound = (6 / 7) ** 0.5 if cell == "rnn_relu" else (6 / 23) ** 0.5
        assert 0.8 * bound < largest <= bound
    with pytest.raises(ConfigError, match="unknown cell 'gur'; did you mean 'gru'"):
        cells.build("gur", 7, 16, 3)


def test_learning_rate() -> None:
    settings = Train(lr=1.0, warmup=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10] == 1.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 1e-3
    assert learning_rate(Train(lr=1.0, schedule="constant"), 99, 100) == 1.0


def source(config: Config, length: int = 20) -> WindowSource:
    data = load_set(config.data.source)
    _, std = normalisation(data.recordings, data.channels)
    return WindowSource(
        data.recordings, length, 10, config.train.augment, data.channels, std, torch.device("cpu")
    )


def test_without_augmentation_windows_are_the_stored_ones(
    settings: Callable[..., Config],
) -> None:
    config = settings(augment="shift = false")
    x, y = source(config).batch(torch.arange(30), torch.Generator().manual_seed(0))
    cut: Windows = windows(load_set(config.data.source), 20, 10)
    assert torch.equal(x, torch.from_numpy(cut.x[:30]))
    assert torch.equal(y, torch.from_numpy(cut.y[:30]))


def test_augmented_windows_stay_within_their_recording(
    settings: Callable[..., Config],
) -> None:
    """Frames are replaced by their recording's number: a window that left it would show another."""
    config = settings(augment="time_warp = 0.5")
    data = load_set(config.data.source)
    numbered = [replace(r, frames=np.full_like(r.frames, i)) for i, r in enumerate(data.recordings)]
    made = WindowSource(
        numbered, 20, 10, config.train.augment, data.channels, np.ones(3), torch.device("cpu")
    )
    owners = windows(data, 20, 10).recording
    x, _ = made.batch(torch.arange(len(made)), torch.Generator().manual_seed(0))
    assert torch.equal(x, torch.from_numpy(owners).float()[:, None, None].expand_as(x))


def test_a_share_of_a_batch_is_that_part_of_the_whole(settings: Callable[..., Config]) -> None:
    made = source(settings(augment=AUGMENT))
    index = torch.arange(12)
    whole, labels = made.batch(index, torch.Generator().manual_seed(3))
    for rank in range(3):
        part = slice(rank, None, 3)
        x, y = made.batch(index, torch.Generator().manual_seed(3), part)
        assert torch.equal(x, whole[part])
        assert torch.equal(y, labels[part])


def test_rotations_are_rotations() -> None:
    generator = torch.Generator().manual_seed(0)
    axis, angle = torch.randn(50, 3, generator=generator), torch.randn(50, generator=generator)
    matrices = rotations(axis, angle, 30.0)
    assert torch.allclose(matrices @ matrices.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(matrices), torch.ones(50), atol=1e-5)
    trace = matrices.diagonal(dim1=1, dim2=2).sum(1)
    assert torch.allclose(trace, 1 + 2 * torch.cos(torch.deg2rad(angle * 30.0)), atol=1e-5)


def test_mirror_flips_half_of_the_windows(settings: Callable[..., Config]) -> None:
    made = source(settings(augment="shift = false\nmirror = [-1, 1, 1]"))
    plain = source(settings(augment="shift = false"))
    index = torch.arange(len(made))
    x, _ = made.batch(index, torch.Generator().manual_seed(0))
    y, _ = plain.batch(index, torch.Generator().manual_seed(0))
    assert torch.equal(x[..., 1:], y[..., 1:])
    flipped = (x[:, 0, 0] == -y[:, 0, 0]).float().mean().item()
    assert 0.3 < flipped < 0.7


def test_evaluation() -> None:
    logits = np.array([[2, 1, 0], [0, 3, 1], [5, 0, 0], [0, 0, 1]], np.float32)
    result = score(logits, np.array([0, 1, 1, 2]), 3)
    assert result.accuracy == 0.75
    assert result.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    expected = nn.functional.cross_entropy(torch.from_numpy(logits), torch.tensor([0, 1, 1, 2]))
    assert result.loss == pytest.approx(float(expected), rel=1e-6)


def test_evaluate_float_leaves_the_module_as_it_was() -> None:
    torch.manual_seed(0)
    module = cells.build("gru", 3, 4, 2, dropout=0.5).train()
    x = np.random.default_rng(0).normal(size=(1030, 5, 3)).astype(np.float32)
    zeros = np.zeros(1030, np.int64)
    data = Windows(x, zeros, zeros.astype(str), zeros, zeros, ("a", "b"))
    result = evaluate_float(module, data)
    assert module.training
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    assert np.allclose(result.logits, expected, atol=1e-6)


@pytest.mark.slow
def test_two_processes_train_what_one_does(settings: Callable[..., Config], tmp_path: Path) -> None:
    # One batch of an even number of windows per epoch, so that both processes get equal halves.
    data = load_set(settings().data.source)
    count = len(windows(data, 20, 10, ["0", "1", "2"]))
    assert count % 2 == 0
    results = [
        train(
            settings(
                "hidden = 6\ndropout = 0.0",
                f"epochs = 2\ndevices = {devices}\nbatch_size = {count}",
            ),
            tmp_path / str(devices),
        )
        for devices in (1, 2)
    ]
    for name, tensor in results[0].model.state_dict().items():
        assert torch.allclose(tensor, results[1].model.state_dict()[name], atol=1e-4), name
    assert results[0].history[1].train_loss == pytest.approx(
        results[1].history[1].train_loss, rel=1e-3
    )
