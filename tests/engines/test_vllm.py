"""vLLM as an engine: what its tokens mean, held to the native engine; and vLLM itself, where it is installed."""

import sys
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steep.engines import ChunkedEngine, LoadedModel, NativeConfig, load_model, save_model_gguf
from steep.engines.driven import Job, Pending
from steep.engines.vllm import ChunkedVllmEngine, Sample, VllmEngine
from steep.errors import SteepError
from steep.types import Budget, Progress, Request, Rollout, Sampling
from tests.engines.test_native import END, THINK_END, engine, same
from tests.server.serving import VLLM_OPTIONS, on_disk, tiny

CLOSING, EXTENSION = (7, 9, THINK_END), (8, 10)
native = engine(context=64)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    answer = draw(st.integers(1, 8))
    budget = Budget(
        thought=draw(st.none() | st.integers(0, 30)),
        answer=answer,
        closing=draw(st.sampled_from([CLOSING, (THINK_END,)])),
        total=draw(st.none() | st.integers(answer + 3, 50)),
        must_answer=draw(st.booleans()),
        pause=draw(st.booleans()),
        extension=EXTENSION,
        extensions=draw(st.integers(0, 2)),
    )
    bare = draw(st.integers(0, 9)) == 0
    budget = replace(budget, closing=(), extensions=0) if bare else budget
    return Request(prompt_ids=(3, 4, 5), budget=budget, seed=draw(st.integers(0, 2**40)))


def replayed(asked: Request, rollout: Rollout) -> Sample:
    """A sample that is given the tokens which the native engine drew, also those that it put others in the place of."""
    sample = Sample(Job(asked, Pending(native)), frozenset([END]), native._thought_limit(asked), total(asked))
    while sample.stop is None:
        at = len(sample.ids)
        drawn = int(rollout.ids[at])
        if not rollout.sampled[at]:
            drawn = THINK_END if drawn == EXTENSION[0] else END
        sample.take(drawn, float(rollout.logprobs[at]))
    return sample


def total(asked: Request) -> int:
    return native._total(asked) if asked.budget.total else 0


@given(requests())
@settings(deadline=None, max_examples=300)
def test_a_budget_does_to_tokens_what_it_does_in_the_native_engine(asked: Request):
    (rollout,) = native.submit(asked).result()
    again = replayed(asked, rollout).rollout()
    assert same(again, rollout)
    assert again.sampled.tolist() == rollout.sampled.tolist()
    assert again.logprobs.tolist() == rollout.logprobs.tolist()


@given(requests(), st.data())
@settings(deadline=None, max_examples=300)
def test_a_sample_is_carried_on_from_all_that_is_told(asked: Request, data: st.DataObject):
    told: list[Progress] = []
    pending = native.submit(asked, told.append)
    while not pending.done():
        native.step()
        native.tell()
    (whole,) = pending.result()
    cut = data.draw(st.sampled_from([0, *np.cumsum([len(progress.ids) for progress in told])[:-1].tolist()]))
    begun = tuple(whole.ids[:cut].tolist())
    used = int(((whole.ids == EXTENSION[0]) & ~whole.sampled)[:cut].sum())
    left = replace(asked.budget, extensions=asked.budget.extensions - used)
    rest = replace(asked, response_ids=begun, budget=left)
    assert replayed(rest, whole).rollout().ids.tolist() == whole.ids.tolist()


# With vLLM


def needs_vllm(test):
    return pytest.mark.vllm(pytest.mark.filterwarnings("ignore")(test))


PROMPT = (20, 21, 22, 23, 24)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model that writes printable characters until a limit ends it."""
    return on_disk(tiny(endless=True, head_dim=32), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vllm(loaded: LoadedModel) -> ChunkedVllmEngine:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    return ChunkedVllmEngine(loaded, NativeConfig(rows=4, context=160), VLLM_OPTIONS)


class Digits:
    """Three digits and the end."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.left, template = 3, loaded.template
        self.vocabulary = loaded.model.config.vocab_size
        self.digits = [id for digit in "0123456789" for id in template.tokenizer.encode(digit)]
        self.ends = sorted(template.end_ids)

    def allowed(self) -> NDArray[np.bool_]:
        allowed = np.zeros(self.vocabulary, np.bool_)
        allowed[self.digits if self.left else self.ends] = True
        return allowed

    def advance(self, id: int) -> None:
        self.left -= 1


@needs_vllm
@pytest.mark.parametrize("thought", [0, 1, 16, 60, 300])
def test_the_likeliest_tokens_are_those_of_the_native_engine(
    vllm: ChunkedVllmEngine, loaded: LoadedModel, thought: int
):
    """300 in chunks."""
    beside = ChunkedEngine(loaded.model, NativeConfig(rows=4, context=160), loaded.template.end_ids)
    budget = loaded.template.budget(thought)
    asked = Request(prompt_ids=PROMPT, budget=budget, n=2, sampling=Sampling(temperature=0.0))
    for mine, other in zip(vllm.submit(asked).result(), beside.submit(asked).result(), strict=True):
        assert same(mine, other)
        assert mine.sampled.tolist() == other.sampled.tolist()
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert vllm.receipt.digest == beside.receipt.digest


@needs_vllm
def test_a_seed_repeats_a_response_and_another_does_not(vllm: ChunkedVllmEngine, loaded: LoadedModel):
    asked = Request(prompt_ids=PROMPT, budget=loaded.template.budget(30), n=6, seed=5)
    first, again = vllm.submit(asked).result(), vllm.submit(asked).result()
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert len({tuple(rollout.ids) for rollout in first}) == 6
    assert not same(vllm.submit(replace(asked, seed=6)).result()[0], first[0])
    (third,) = vllm.submit(replace(asked, n=1, first_sample=2)).result()
    assert same(third, first[2])


@needs_vllm
def test_an_answer_is_held_to_its_constraint(vllm: ChunkedVllmEngine, loaded: LoadedModel):
    budget = loaded.template.budget(10)
    asked = Request(prompt_ids=PROMPT, budget=budget, n=3, constraint=lambda: Digits(loaded), seed=1)
    for rollout in vllm.submit(asked).result():
        answer = loaded.template.tokenizer.decode(rollout.ids[rollout.thought_len :].tolist()[:-1])
        assert (len(answer), answer.isdecimal(), rollout.stop) == (3, True, "end")
        (again,) = vllm.submit(
            replace(asked, n=1, first_sample=rollout.sample, response_ids=tuple(rollout.ids[:-2].tolist()))
        ).result()
        assert len(again.ids) == len(rollout.ids)


@needs_vllm
@pytest.mark.parametrize("where", ["made", "allowed", "advance", "told"])
def test_what_a_request_brings_with_it_may_fail_for_itself_alone(
    vllm: ChunkedVllmEngine, loaded: LoadedModel, where: str
):
    class Broken(Digits):
        def __getattribute__(self, name: str) -> Any:
            if name == where:
                raise RuntimeError(where)
            return super().__getattribute__(name)

    def made() -> Broken:
        if where == "made":
            raise RuntimeError(where)
        return Broken(loaded)

    def sink(progress: Progress) -> None:
        if where == "told" and progress.thought_len == 0:
            raise RuntimeError(where)

    budget = loaded.template.budget(3)
    asked = Request(prompt_ids=PROMPT, budget=loaded.template.budget(12), n=2, seed=8)
    (whole,) = vllm.submit(replace(asked, n=1)).result()
    broken = vllm.submit(Request(prompt_ids=PROMPT, budget=budget, n=4, constraint=made), sink)
    beside = vllm.submit(asked)
    while not broken.done():
        vllm.step()
        vllm.tell()
    with pytest.raises(RuntimeError, match=where):
        broken.result()
    assert same(beside.result()[0], whole)
    vllm.step()
    assert vllm.idle
    vocabulary = loaded.model.config.vocab_size
    with pytest.raises(SteepError, match=f"the token {vocabulary} is none of the model's {vocabulary}"):
        vllm.submit(Request(prompt_ids=(vocabulary,), budget=budget))


@needs_vllm
def test_what_is_told_is_all_there_is(vllm: ChunkedVllmEngine, loaded: LoadedModel):
    asked = Request(prompt_ids=PROMPT, budget=loaded.template.budget(20), seed=3)
    told: list[Progress] = []
    (rollout,) = vllm.submit(asked, told.append).result()
    tokens = list(vllm.stream(asked))
    assert [token.id for token in tokens] == rollout.ids.tolist()
    assert np.concatenate([progress.ids for progress in told]).tolist() == rollout.ids.tolist()
    assert (len(told[0].ids), told[-1].stop) == (1, rollout.stop)


@needs_vllm
def test_one_under_way_is_told_to_answer_ended_or_cancelled(vllm: ChunkedVllmEngine, loaded: LoadedModel):
    asked = Request(prompt_ids=PROMPT, budget=loaded.template.budget(100))
    answering, ending, cancelled = [vllm.submit(asked) for _ in range(3)]
    for _ in range(8):
        vllm.step()
    answering.answer_now()
    ending.end(0)
    cancelled.cancel()
    (answered,), (ended,) = answering.result(), ending.result()
    assert (answered.interrupted, answered.thought_tokens, len(answered.ids)) == (True, 8, 8 + 2 + 24)
    assert (ended.stop, len(ended.ids), ended.thought_len) == ("cancelled", 8, None)
    with pytest.raises(CancelledError):
        cancelled.result()
    assert vllm.idle


@needs_vllm
def test_what_vllm_does_not_take_is_told(loaded: LoadedModel):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    with pytest.raises(SteepError, match="no engine argument 'tensor_parallel'"):
        VllmEngine(loaded, NativeConfig(rows=4, context=160), {"tensor_parallel": 2})
    with pytest.raises(SteepError, match="vLLM does not start"):
        VllmEngine(loaded, NativeConfig(rows=4, context=160), {"gpu_memory_utilization": 7})


def test_vllm_is_asked_for_where_it_is_not(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SteepError, match="vLLM is not installed") as error:
        VllmEngine(loaded, NativeConfig(rows=4, context=160))
    assert "steep[vllm]" in str(error.value)


def test_a_gguf_file_is_not_for_vllm(loaded: LoadedModel, tmp_path: Path):
    save_model_gguf(tmp_path / "tiny.gguf", loaded.model, loaded.template)
    with pytest.raises(SteepError, match="reads Hugging Face directories"):
        VllmEngine(load_model(tmp_path / "tiny.gguf"), NativeConfig(rows=4, context=160))
