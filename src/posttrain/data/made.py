"""Samples that are made when they are asked for."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload

from posttrain.types import Sample


class MadeSamples(Sequence[Sample]):
    """A sequence whose items `make` builds one by one."""

    @abstractmethod
    def make(self, index: int) -> Sample:
        """Sample number `index`."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self.make(i) for i in range(*index.indices(len(self)))]
        return self.make(index)
