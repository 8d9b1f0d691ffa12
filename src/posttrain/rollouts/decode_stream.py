"""A batch that lives on: requests enter while others run, each drawn in its own way, and leave when they are done.

The same decoders, pages and steps as one call of the sampler (decode_batch.py). What differs: a row's pages hold its
prompt and what it said, one after the other, in a pool with a bound. A row for which there is no page goes back to the
queue, the youngest first, and is computed again later from its tokens: nothing fails for want of room. Prompts go
through the model in parts, so that running answers wait for a part at most (chunked prefill: Agrawal et al., 2023).
"""

import time
from collections import deque
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from posttrain.errors import ModelError
from posttrain.models.decoding import Decoder, PlainDecoder, decode_mode
from posttrain.models.decoding_chunks import Chunks, Part
from posttrain.models.decoding_pages import PAGE, PAGE_MULTIPLE, Pages, Step, copy_pages
from posttrain.rollouts.decode_batch import LENGTH_MULTIPLE, PREFILL_TOKENS, ROW_MULTIPLE, Counts
from posttrain.rollouts.decode_choice import SCORED, Choice, scores
from posttrain.rollouts.decode_prefixes import Prefixes
from posttrain.rollouts.decode_rows import Growth, Job, Row
from posttrain.rollouts.decode_text import Vocabulary

READ_S = 0.05  # seconds that a part of prompts may take while others are being answered


class Stream:
    """Answers of one model. Every method is called by one and the same thread.

    `slots`: answers that are in the batch at once. `max_positions`: of keys and values of running answers (in pages of
    64, taken as they are needed); `kept_positions`: of finished ones, kept for requests that begin alike.
    """

    def __init__(
        self, decoder: Decoder, tokenizer: Any, *, slots: int, max_positions: int, kept_positions: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.decoder, self.tokenizer, self.slots, self.device = decoder, tokenizer, slots, device
        self.bounds = max(1, max_positions // PAGE), kept_positions // PAGE
        self.vocabulary, self.counts, self.mode = Vocabulary.of(tokenizer), Counts(), ExitStack()
        self.serial, self.s_per_token = 0, 0.0
        self.others_write = False  # whether other streams of the thread wait for this one's step
        self.waiting: deque[Row] = deque()
        self._clear()

    def _clear(self) -> None:
        self.reading: list[Row] = []  # rows whose prompt goes through the model
        self.following: list[Row] = []  # rows whose prompt another answer of their job is reading
        self.writing: list[Row] = []  # by slot
        self.pool = Pages(1, self.slots, self.device, most=self.bounds[0])
        self.nothing = Pages(1, self.slots, self.device)
        self.prefixes = Prefixes(self.bounds[1], self.slots, self.device)
        self.choice = Choice(self.device)
        self.is_awake, self.by_length = False, False

    @property
    def num_running(self) -> int:
        """Answers in slots."""
        return len(self.reading) + len(self.following) + len(self.writing)

    @property
    def num_rows(self) -> int:
        """Answers in slots and in the queue."""
        return len(self.waiting) + self.num_running

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.num_running)

    @property
    def held_positions(self) -> int:
        """Of keys and values, in whole pages, kept prefixes among them."""
        return (len(self.pool.in_use) + len(self.prefixes.pages.in_use)) * PAGE

    def submit(self, job: Job) -> None:
        """Put a job's answers into the queue. `job.limit` with the prompt must fit into `max_positions`."""
        if job.decoding.open_ids:
            raise ValueError("open_ids is for PolicySampler alone")
        assert len(job.request.prompt_ids) + job.limit <= self.bounds[0] * PAGE, "no room for the whole answer"
        first, num = self.serial + 1, len(job.request.seeds)
        rows = [Row.of(job, number, first + number, self.tokenizer, self.vocabulary) for number in range(num)]
        self.serial += num
        self.waiting.extend(rows)  # all or none: one that cannot be made leaves no half of a job behind

    def cancel(self, job: Job) -> None:
        """End a job's answers; slots and pages are free at once."""
        for row in [row for row in (*self.waiting, *self._running()) if row.job is job]:
            self._leave(row)
        self._rest()

    def fail(self, error: Exception) -> None:
        """End everything with an error, and begin anew."""
        rows = [*self._running(), *self.waiting]
        self.waiting.clear()
        self._clear()
        self._rest()
        for row in rows:
            row.job.tell(Growth(row.number, error=error))

    @torch.no_grad()
    def step(self) -> None:
        """Admit, read a part of prompts, write one token for every answer that is being written."""
        if not self.is_awake:
            if isinstance(self.decoder, PlainDecoder):
                self.mode.enter_context(decode_mode(self.decoder.model))
            self.is_awake = True
        with torch.autocast(self.device.type, enabled=False):
            self._admit()
            if self.reading:
                self._read()
            if self.writing:
                self._write()
        self._rest()

    def _rest(self) -> None:
        """Leave the model as it was found, and hold on to nobody's request, while there is nothing to do."""
        if not self.is_busy:
            self.mode.close()
            self.choice = Choice(self.device)
            self.is_awake = False

    def _running(self) -> list[Row]:
        return [*self.reading, *self.following, *self.writing]

    def _admit(self) -> None:
        """Fill free slots from the queue, in its order, while there is room for the prompts."""
        while self.waiting and self.num_running < self.slots:
            row = self.waiting[0]
            if any(other.job is row.job for other in self.reading):
                self.following.append(self.waiting.popleft())
                continue
            needed = len(row.ids) // PAGE + 1
            # Some room is left, or those that are running would soon throw the newcomer out again.
            if self.pool.in_use and self.pool.room < needed + len(self.writing) // 8:
                return
            self.waiting.popleft()
            found = [] if row.is_scored else self.prefixes.find(row.ids)
            row.pages = [self.pool.take(number * PAGE) for number in range(needed)]
            copy_pages(self.prefixes.pages, found, self.pool, row.pages[: len(found)])
            row.held = len(found) * PAGE
            self.reading.append(row)

    def _read(self) -> None:
        """Put parts of the waiting prompts through the model, each row its share; the first tokens of those that are
        through."""
        began = time.perf_counter()
        parts: list[tuple[Row, Part]] = []
        budget = self._budget()
        self.by_length = not self.by_length  # short prompts need not wait for all long ones, and none waits for ever
        order = sorted(self.reading, key=lambda row: row.left) if self.by_length else self.reading
        for number, row in enumerate(order):
            piece = min(row.left, max(PAGE, budget // (len(order) - number)))
            if piece < row.left:  # up to the end of a page
                piece = max(piece - (row.held + piece) % PAGE, min(row.left, PAGE - row.held % PAGE))
            parts.append((row, Part(row.pages, row.held, row.held + piece)))
            budget -= piece
            if budget <= 0:
                break
        total = sum(part.stop - part.start for _, part in parts)
        ids = torch.tensor([token for row, part in parts for token in row.ids[part.start : part.stop]])
        place = torch.cat([torch.arange(part.start, part.stop) for _, part in parts])
        ids, place = (pad(x, (0, -total % LENGTH_MULTIPLE)).to(self.device) for x in (ids, place))
        hidden = self.decoder.hidden(ids, place, Chunks(self.pool, [part for _, part in parts]))
        self.counts.prefill_tokens += total
        self._have_read(hidden, parts)
        rate = (time.perf_counter() - began) / total
        self.s_per_token = 0.8 * self.s_per_token + 0.2 * rate if self.s_per_token else rate

    def _budget(self) -> int:
        if not self.writing and not self.others_write:
            return PREFILL_TOKENS
        if not self.s_per_token:
            return PAGE
        return max(PAGE, min(PREFILL_TOKENS, int(READ_S / self.s_per_token)))

    def _have_read(self, hidden_TD: Tensor, parts: list[tuple[Row, Part]]) -> None:
        last, through, places = 0, [], []
        for row, part in parts:
            first, last = last, last + part.stop - part.start
            if row.is_scored:
                self._score(row, hidden_TD[first:last], part.start)
            row.held = part.stop
            if not row.left:
                through.append(row)
                places.append(last - 1)
        if not through:
            return
        for row in through:
            self.reading.remove(row)
            self._seat(row)
            self._share(row)
        self._choose(self.decoder.logits(hidden_TD[torch.tensor(places, device=self.device)]), through)
        for row in through:
            if row.pages:
                self.prefixes.keep(row.ids[: row.held], self.pool, row.pages)

    def _score(self, row: Row, hidden_TD: Tensor, start: int) -> None:
        """What the prompt's tokens behind these places were worth."""
        prompt = row.job.request.prompt_ids
        if not row.scored:
            row.scored.append((None, ()))
        first = len(row.scored) - 1 - start  # a row that was thrown out comes by some places again
        for begin in range(first, min(len(hidden_TD), len(prompt) - 1 - start), SCORED):
            targets = prompt[start + begin + 1 : start + min(begin + SCORED, len(hidden_TD)) + 1]
            logits = self.decoder.logits(hidden_TD[begin : begin + len(targets)])
            row.scored += scores(logits, targets, row.job.num_top)

    def _share(self, row: Row) -> None:
        """Give the other answers of a job, which wait for it, the prompt that was read: all but its last token, which
        each feeds as its own first step."""
        length = len(row.job.request.prompt_ids)
        needed = -(-length // PAGE)
        for other in [other for other in self.following if other.job is row.job]:
            self.following.remove(other)
            if other.left != length or self.pool.room < needed:
                self._requeue(other)
                continue
            other.pages = [self.pool.take(number * PAGE) for number in range(needed)]
            copy_pages(self.pool, row.pages[:needed], self.pool, other.pages)
            other.held = length - 1
            self.pool.filled[other.pages[-1]] = other.held - (needed - 1) * PAGE
            self._seat(other)

    def _seat(self, row: Row) -> None:
        self.writing.append(row)
        self.pool.rows[row.pages, 0] = len(self.writing) - 1

    def _write(self) -> None:
        """One more token for every row."""
        for row in sorted(self.writing, key=lambda row: row.serial):
            if row.pages and row.held == len(row.pages) * PAGE:
                self._extend(row)
        rows = list(self.writing)
        if not rows:
            return
        self._compact()
        held_B = torch.tensor([row.held for row in rows])
        page_B = torch.tensor([row.pages[row.held // PAGE] for row in rows])
        ids = torch.tensor([row.ids[row.held] for row in rows])
        attend = Step(self.nothing, self.pool, page_B, held_B % PAGE, held_B)
        extra = -len(rows) % min(ROW_MULTIPLE, 1 << (len(rows) - 1).bit_length())
        hidden = self.decoder.hidden(
            pad(ids, (0, extra)).to(self.device), pad(held_B, (0, extra)).to(self.device), attend
        )
        self.counts.steps += 1
        self.counts.rows += len(rows)
        self.counts.peak_positions = max(self.counts.peak_positions, self.held_positions)
        for row in rows:
            row.held += 1
        self._choose(self.decoder.logits(hidden)[: len(rows)], rows)

    def _extend(self, row: Row) -> None:
        """One more page. Where there is none the youngest goes back to the queue, which may be this row."""
        while not self.pool.room:
            youngest = max((each for each in self._running() if each.pages), key=lambda each: each.serial)
            self._requeue(youngest)
            if youngest is row:
                return
        row.pages.append(self.pool.take(row.held))
        self.pool.rows[row.pages[-1], 0] = self.writing.index(row)

    def _requeue(self, row: Row) -> None:
        """Back into the queue, at the place of its arrival; and those that waited for what it was reading."""
        if row in self.reading:
            for other in [other for other in self.following if other.job is row.job]:
                self._requeue(other)
        self._leave(row)
        place = next((n for n, other in enumerate(self.waiting) if other.serial > row.serial), len(self.waiting))
        self.waiting.insert(place, row)

    def _compact(self) -> None:
        """Pages at the far end move into holes when most are holes: a step computes over all up to the last."""
        used = len(self.pool.in_use)
        if self.pool.extent <= 2 * used + 2 * PAGE_MULTIPLE:
            return
        for row in (*self.reading, *self.writing):
            far = [number for number, page in enumerate(row.pages) if page >= used]
            old = [row.pages[number] for number in far]
            for number in far:
                row.pages[number] = self.pool.take(number * PAGE)
            new = [row.pages[number] for number in far]
            copy_pages(self.pool, old, self.pool, new)
            self.pool.rows[new, 0] = self.pool.rows[old, 0]
            self.pool.give_back(old)

    def _choose(self, logits_BV: Tensor, rows: list[Row]) -> None:
        """Draw a token for each row; those for which it was the last leave."""
        for row, drawn in zip(rows, self.choice.draw(logits_BV, rows), strict=True):
            if not drawn.is_sound:
                self._spoil(row)
            elif row.grow(drawn.token_id, drawn.logp, drawn.top):
                self._leave(row)

    def _spoil(self, row: Row) -> None:
        """An answer whose logits are no numbers ends, and no page keeps them: a masked NaN is still one."""
        self._blank(row)
        self._leave(row)
        row.job.tell(
            Growth(
                row.number,
                error=ModelError(
                    "the model's logits are not numbers: its weights hold NaN or infinity, or overflow in this dtype; "
                    "serve an earlier checkpoint, or in float32."
                ),
            )
        )

    def _blank(self, row: Row) -> None:
        """Nothing of a row's keys and values stays."""
        for pool in (self.pool.keys, self.pool.values):
            for held in pool.values():
                held[row.pages] = 0
        row.held = 0

    def _leave(self, row: Row) -> None:
        """Give the slot and the pages back; the last row moves into the hole."""
        if row in self.writing:
            slot, last = self.writing.index(row), self.writing.pop()
            if last is not row:
                self.writing[slot] = last
                self.pool.rows[last.pages, 0] = slot
        if row in self.reading:  # nobody has seen yet whether its keys are sound
            self._blank(row)
        for rows in (self.reading, self.following, self.waiting):
            if row in rows:
                rows.remove(row)
        if row.held >= PAGE:
            self.prefixes.keep(row.ids[: row.held], self.pool, row.pages)
        self.pool.give_back(row.pages)
        row.pages, row.held = [], 0
