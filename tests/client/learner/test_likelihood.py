"""Log-probabilities of prompts and completions: one sequence at a time gives the same as a padded batch."""

import numpy as np
import pytest
import torch
from fedgrpo.client.learner.models import likelihood
from fedgrpo.client.learner.models.likelihood import likelihoods
from fedgrpo.client.learner.training.evaluate import prompt_texts
from fedgrpo.common.adapter.adapter import Adapter
from learners import PROBLEMS

COMPLETIONS = [[5, 9, 2], [7], [5, 5, 6, 8, 9, 2]]


@pytest.fixture
def adapted(model):
    rng = np.random.default_rng(0)
    moved = Adapter.initial(model.schema).plus(rng.normal(0, 0.1, model.schema.size).astype(np.float32))
    model.trainer.adapted.load(moved)
    return model.trainer.adapted


@pytest.fixture
def sequences(model):
    texts = prompt_texts(model.tokenizer, PROBLEMS[:3], "")
    prompts = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return list(zip(prompts, COMPLETIONS, strict=True))


def alone(model, prompt, completion):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0].double()
    ids, every = torch.tensor(prompt + completion), logits.log_softmax(dim=-1)
    return [float(every[i - 1, ids[i]]) for i in range(1, len(ids))]


def test_a_padded_batch_has_the_log_probabilities_of_each_sequence_alone(adapted, sequences):
    adapted.model.eval()
    found = likelihoods(adapted, sequences)
    for one, (prompt, completion) in zip(found, sequences, strict=True):
        assert (len(one.prompt), len(one.completion)) == (len(prompt) - 1, len(completion))
        assert [*one.prompt, *one.completion] == pytest.approx(alone(adapted.model, prompt, completion), abs=1e-4)


def test_base_leaves_out_the_adapter_and_puts_it_back(adapted, sequences):
    with_adapter, base = likelihoods(adapted, sequences), likelihoods(adapted, sequences, base=True)
    adapted.model.eval()
    with adapted.base_only():
        expected = alone(adapted.model, *sequences[0])
    assert [*base[0].prompt, *base[0].completion] == pytest.approx(expected, abs=1e-4)
    assert np.abs(base[0].completion - with_adapter[0].completion).max() > 0.01
    again = likelihoods(adapted, sequences)
    assert again[0].completion.tolist() == with_adapter[0].completion.tolist()


def test_a_large_vocabulary_is_taken_few_sequences_at_a_time(adapted, sequences, monkeypatch):
    whole = likelihoods(adapted, sequences)
    monkeypatch.setattr(likelihood, "LOGIT_BYTES", 1)
    for one, single in zip(whole, likelihoods(adapted, sequences), strict=True):
        assert one.completion == pytest.approx(single.completion, abs=1e-4)
