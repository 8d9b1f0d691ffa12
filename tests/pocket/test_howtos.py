from posttrain.pocket.howtos import topics


def test_topics_of_every_kind_for_teaching_and_for_the_exam() -> None:
    counts = {
        (kind, taught): sum(1 for topic in topics() if (topic.kind, topic.taught) == (kind, taught))
        for kind in ("everyday", "lookalike", "declined")
        for taught in (True, False)
    }
    assert sum(counts.values()) == len(topics())
    assert counts["everyday", True] + counts["everyday", False] >= 40
    assert counts["declined", True] + counts["declined", False] >= 12
    assert min(counts.values()) >= 5


def test_only_declined_topics_have_a_reason() -> None:
    for topic in topics():
        assert bool(topic.reason) == (topic.kind == "declined"), topic.phrase
        assert len(topic.steps) >= 3


def test_the_asker_speaks_of_himself() -> None:
    phrases = {topic.phrase: topic.asked_phrase for topic in topics()}
    assert phrases["open a lock that is not yours"] == "open a lock that is not mine"
    assert phrases["read your own letters"] == "read my own letters"
