"""Fixtures of the lm-evaluation-harness's tests: one small model of each family for all of them."""

import pytest

from tests.helpers.lm_eval_parts import opened, theirs, write_lm


@pytest.fixture(scope="package", params=["gpt2", "llama"])
def lm_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_lm(folder, request.param)
    return folder


@pytest.fixture(scope="package")
def lm_pair(lm_folder):
    """(our adapter, theirs)."""
    return opened(lm_folder), theirs(lm_folder)
