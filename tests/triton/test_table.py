"""The table in device memory: what it says, and what is sent."""

import numpy as np
import pytest
import torch

import polyak
from polyak.engine.triton import bucket as buckets
from polyak.engine.triton.chunks import chunk_length, chunk_map
from polyak.engine.triton.table import DeviceTable

from .support import give_gradients, made

CPU = torch.device("cpu")


def table(lengths=(5, 3000), rows=16, inputs=2):
    """A table of two roles, beside the gradients."""
    lengths = np.array(lengths)
    addresses = np.arange(4).reshape(2, 2) + 100
    return DeviceTable(lengths, addresses, rows, chunk_map(lengths, 1024), inputs, CPU)


def test_chunks_of_more_than_32_bits():
    """Each number is in one chunk, also where their count does not fit 32 bits."""
    lengths = np.array([0, 1, 2**33 + 1, 1024])
    chunk = chunk_length(int(lengths.sum()))
    chunks = chunk_map(lengths, chunk)
    assert chunks.dtype == np.int64
    assert [*np.bincount(chunks[:, 0])] == [0, 1, 2**33 // chunk + 1, 1]
    assert chunks[-2].tolist() == [2, 2**33]


@pytest.mark.parametrize("numbers", [0, 1, 10**6, 10**8, 10**9, 10**12])
def test_chunks_are_many_and_not_small(numbers):
    length = chunk_length(numbers)
    assert 1024 <= length <= 65536
    assert numbers // length >= 2**14 or length == 1024
    assert numbers // length <= 2**15 or length == 65536


def test_what_it_holds():
    made = table()
    made.gradients(np.array([7, 8]))
    made.rows(np.array([1, 0]))
    made.values(np.array([[0.5, 1.5], [2.5, 3.5]], np.float32))
    made.inputs(np.array([3, 4]))
    made.upload()
    words = made.words
    assert words[:10].tolist() == [5, 3000, 100, 101, 102, 103, 7, 8, 1, 0]
    assert words[10:12].view(torch.float32).tolist() == [0.5, 1.5, 2.5, 3.5]
    chunks = words[made.work_at : made.inputs_at].reshape(-1, 2)
    assert chunks.tolist() == [[0, 0], [1, 0], [1, 1024], [1, 2048]]
    assert words[made.inputs_at :].tolist() == [3, 4]


def sent(table, monkeypatch):
    """The parts that an upload copies."""
    parts = []
    monkeypatch.setattr(table, "_copy", parts.append)
    table.upload()
    return parts


def test_what_did_not_change_is_not_sent(monkeypatch):
    made = table()
    made.gradients(np.array([7, 8]))
    made.upload()
    made.gradients(np.array([7, 8]))
    assert sent(made, monkeypatch) == []
    made.gradients(np.array([7, 9]))
    assert sent(made, monkeypatch) == [slice(6, 8)]
    made.rows(np.array([1, 1]))
    made.gradients(np.array([1, 1]))
    assert sent(made, monkeypatch) == [slice(6, 10)]


def test_a_graph_sends_where_the_gradients_are(monkeypatch):
    """Each time, since other steps between its replays may have other ones."""
    made = table()
    made.upload()
    kept = made.capture()
    assert kept.tolist() == [0, 0, 0, 0]
    made.upload(again=True)
    made.values(np.ones((2, 2), np.float32))
    with pytest.raises(RuntimeError, match="refresh"):
        made.capture()


def test_steady_steps_send_scalars_and_new_gradients_alone(monkeypatch):
    params = made(sizes=(3, 5000))
    optimizer = polyak.SGD(params, lr=0.1)
    give_gradients(params, 0)
    optimizer.step()
    (bucket,) = optimizer._plan.buckets
    parts = []
    copy = bucket.words._copy
    monkeypatch.setattr(bucket.words, "_copy", lambda p: (parts.append(p), copy(p)))
    optimizer.step()
    assert parts == []
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.step()
    assert len(parts) == 1


def test_a_gradient_that_moved_is_found():
    """Its memory is another, while it is the same object."""
    params = made(sizes=(5,))
    optimizer = polyak.SGD(params, lr=1.0)
    give_gradients(params, 0)
    optimizer.step()
    before = params[0].detach().clone()
    params[0].grad.data = torch.ones(5)
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), before - 1)


def test_a_step_that_is_captured_first_is_refused(monkeypatch):
    monkeypatch.setattr(buckets, "capturing", lambda device: True)
    params = made(sizes=(5,))
    give_gradients(params, 0)
    with pytest.raises(RuntimeError, match="do some steps first"):
        polyak.Adam(params, capturable=True).step()


def test_a_counter_on_the_host_cannot_be_captured(monkeypatch):
    params = made(sizes=(5,))
    optimizer = polyak.Adam(params)
    give_gradients(params, 0)
    optimizer.step()
    before = params[0].detach().clone()
    monkeypatch.setattr(buckets, "capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="capturable=True"):
        optimizer.step()
    assert torch.equal(params[0], before)
    assert optimizer.state[params[0]]["step"] == 1


def test_a_capture_keeps_what_the_graph_reads(monkeypatch):
    params = made(sizes=(5,))
    optimizer = polyak.Adam(params, capturable=True)
    for step in range(2):
        give_gradients(params, step)
        optimizer.step()
    (bucket,) = optimizer._plan.buckets
    monkeypatch.setattr(buckets, "capturing", lambda device: True)
    optimizer.step()
    assert len(bucket.captured) == 1
    monkeypatch.undo()
    from polyak.engine.triton import captures

    assert captures._captured[optimizer] == [bucket]
