"""Any records that have an answer as conversations, which instruction tuning learns from."""

from collections.abc import Sequence

from fmzoo.data.records import Conversation, Judged, Messages, Preference, Problem, Ranking, Record
from fmzoo.errors import InputError


class Conversations(Sequence[Conversation]):
    """Records, each as the conversation that ends in its answer: what was said, the chosen one, the worked solution."""

    def __init__(self, records: Sequence[Record]):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Conversation:
        return conversation(self._records[index])


def conversation(record: Record) -> Conversation:
    """A record as the conversation that ends in its answer.

    Of a preference that is the chosen one, of a ranking the best, of a problem the solution or else the final answer.

    Raises:
      InputError: it has no answer to learn from: a problem without one, or an answer that is not wanted.
    """
    if isinstance(record, Conversation):
        return record
    if isinstance(record, Preference):
        return _answered(record.prompt, record.chosen)
    if isinstance(record, Ranking):
        return _answered(record.prompt, record.responses[record.ratings.index(max(record.ratings))])
    if isinstance(record, Judged) and record.desirable:
        return _answered(record.prompt, record.completion)
    if isinstance(record, Problem) and (record.solution or record.answer):
        return _answered(record.prompt, record.solution or record.answer)
    kind, last = type(record).__name__, str(record.prompt[-1].get("content", ""))[:60]
    raise InputError(f"record {last!r} ({kind}) has no answer to learn from; a wanted one is needed")


def _answered(prompt: Messages, answer: str) -> Conversation:
    return Conversation((*prompt, {"role": "assistant", "content": answer}))
