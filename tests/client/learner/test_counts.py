"""Counts over held-out problems, as they leave an organisation."""

from fedgrpo.client.learner.data.problems import Problem
from fedgrpo.client.learner.training.evaluate import Answered, count


def test_labels_of_the_data_are_made_printable_before_they_leave():
    problems = [Problem(question="q", answer="1", labels={"topic": label}) for label in ("a\nb", "a\\nb", "x" * 500)]
    answers = [Answered(text="1", strict=True, lenient=True, truncated=False, tokens=1)] * 3
    classes = count(problems, answers, answers, ["topic"]).classes
    assert classes[r"topic=a\nb"].problems == 2
    assert max(map(len, classes)) == 80
