from __future__ import annotations

import os

import pytest
import torch

from nas.errors import DeviceError
from nas.hardware import Device, devices


def test_the_default_is_one_sample_on_one_thread() -> None:
    device = Device()
    device.check()
    assert (device.name, device.threads, device.batch, device.dtype) == ("cpu", 1, 1, "float32")
    assert device.torch_device == torch.device("cpu")
    assert device.torch_dtype is torch.float32
    assert devices()[0] == "cpu"


def test_devices_are_values() -> None:
    assert Device(batch=4) == Device(batch=4) != Device(batch=8)
    assert len({Device(), Device("cpu"), Device(threads=2)}) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "cup"}, "device 'cup' is not 'cpu', 'cuda' or 'cuda:N'; did you mean 'cpu'"),
        ({"threads": 0}, "Device was given threads=0; it is a whole number, 1 or more"),
        ({"batch": 1.5}, "Device was given batch=1.5; it is a whole number, 1 or more"),
        ({"batch": True}, "Device was given batch=True; it is a whole number, 1 or more"),
        ({"dtype": "float23"}, "did you mean 'float32'"),
    ],
)
def test_a_description_without_meaning_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(DeviceError, match=sentence):
        Device(**options)  # type: ignore[arg-type]


def test_a_device_may_be_described_where_it_is_not_and_check_says_so() -> None:
    absent = Device(f"cuda:{torch.cuda.device_count()}")
    with pytest.raises(DeviceError, match=r"device 'cuda:\d' is not there; this machine has cpu"):
        absent.check()


def test_more_threads_than_cores_are_refused() -> None:
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(DeviceError, match=rf"threads={cores + 1} on a machine with {cores} cores"):
        Device(threads=cores + 1).check()
