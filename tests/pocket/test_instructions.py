import random
from itertools import islice

from posttrain.pocket.instructions import Instruction, instructions
from posttrain.pocket.judge import names_answers
from posttrain.pocket.world import World


def _some(world: World, taught: bool) -> list[Instruction]:
    return list(islice(instructions(random.Random(1), world.facts, taught=taught), 600))


def test_the_given_reply_is_right(world: World) -> None:
    for task in _some(world, True) + _some(world, False):
        assert names_answers(task.reply, task.answers, task.wrongs, task.num_needed), task


def test_the_exam_uses_other_words(world: World) -> None:
    prompts = [
        {task.prompt for task in _some(world, taught) if not task.prompt.startswith("Name ")} for taught in (0, 1)
    ]
    assert not prompts[0] & prompts[1]
