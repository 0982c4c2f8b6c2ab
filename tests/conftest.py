import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("steep", deadline=None)  # a busy machine is no failure
settings.load_profile("steep")

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
