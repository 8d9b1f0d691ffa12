"""What the tests of this room share: the world and three megabytes of its corpus, made once."""

import pytest

from posttrain.pocket.corpus import documents
from posttrain.pocket.world import World, build_world

CORPUS_CHARACTERS = 3_000_000


@pytest.fixture(scope="session")
def world() -> World:
    return build_world()


@pytest.fixture(scope="session")
def corpus(world: World) -> list[tuple[str, str]]:
    taken: list[tuple[str, str]] = []
    size = 0
    for kind, text in documents(world, seed=0):
        taken.append((kind, text))
        size += len(text)
        if size >= CORPUS_CHARACTERS:
            break
    return taken
