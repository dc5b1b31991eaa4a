from __future__ import annotations

import pytest

from shoal.worker.generation.soundness import Prompt, Soundness

A, B, C = (1,), (1, 2), (3,)

Step = tuple[list[Prompt], bool]  # whose rows it spoiled, and whether others were sound


def spoiled(*prompts: Prompt, sound: bool = False) -> Step:
    return list(prompts), sound


SOUND = spoiled(sound=True)
NOTHING_WANTED = spoiled()


def ends_at(steps: list[Step]) -> int | None:
    """The number of the step at which the engine is given up."""
    soundness = Soundness()
    for number, (prompts, sound) in enumerate(steps, 1):
        if soundness.observe(prompts, sound=sound):
            return number
    return None


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        ([spoiled(A, B)] * 3, 3),
        ([spoiled(A), spoiled(B), spoiled(C)], 3),
        ([spoiled(A), spoiled(A), spoiled(B)], 3),
        ([spoiled(A, B), spoiled(A), spoiled(A)], 3),
        ([spoiled(A)] * 5 + [spoiled(B)], 6),
        ([spoiled(A, B), NOTHING_WANTED, spoiled(C), NOTHING_WANTED, spoiled(C)], 5),
    ],
    ids=["together", "one by one", "the last differs", "the first differ", "after many", "with prefills between"],
)
def test_an_engine_that_spoils_different_prompts_three_steps_in_a_row_is_at_its_end(
    steps: list[Step], end: int
) -> None:
    assert ends_at(steps) == end


@pytest.mark.parametrize(
    "steps",
    [
        [spoiled(A)] * 100,
        [spoiled(A, A)] * 100,
        [spoiled(A, B)] * 2,
        [spoiled(A, B, sound=True)] * 100,
        [spoiled(A, B), spoiled(A, C), SOUND] * 50,
        [spoiled(A), SOUND, *[spoiled(B)] * 100],
        [spoiled(A, B), spoiled(A, B), *[NOTHING_WANTED] * 100],
        [NOTHING_WANTED] * 100,
    ],
    ids=[
        "one prompt again and again",
        "one request of many generations",
        "two steps",
        "with a sound row",
        "with sound steps between",
        "another long ago",
        "two steps and prefills",
        "nothing wanted",
    ],
)
def test_what_may_come_of_one_prompt_or_passes_is_no_end(steps: list[Step]) -> None:
    assert ends_at(steps) is None
