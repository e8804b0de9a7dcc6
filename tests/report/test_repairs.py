from __future__ import annotations

from edgekd.report import repairs


def test_each_method_is_told_with_its_figures():
    tried = [
        {"method": "round", "kept": True, "score": [0.8184, 0.8536], "loss": [0.52424, 0.4143],
         "loss_change_95": [-0.127, -0.093], "seconds": 9.0},
        {"method": "bias", "kept": False, "score": [0.8536, 0.85], "loss": [0.4143, 0.41431],
         "loss_change_95": None, "seconds": 1.0},
    ]  # fmt: skip
    report = {"stages": [{"name": "teacher", "facts": {}}, {"name": "quantize[u8]", "facts": {"improve": tried}}]}
    assert repairs.sentences(report) == [
        "quantize[u8]: round kept; on the validation split the loss went from 0.5242 to 0.4143 "
        "(change -0.13 to -0.093, 95 %), the score from 81.84 % to 85.36 %",
        "quantize[u8]: bias not kept; on the validation split the loss went from 0.4143 to 0.4143 "
        "(too few samples for an interval), the score from 85.36 % to 85.00 %",
    ]
    assert repairs.sentences({"stages": [{"name": "measure[cpu]", "facts": {}}]}) == []
