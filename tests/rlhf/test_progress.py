from rlhf.progress import report_progress, watching


def test_watchers_hear_while_they_watch():
    heard = []
    report_progress("sft", 1, 9)
    with watching(lambda *report: heard.append(report)):
        report_progress("sft", 2, 9)
    report_progress("sft", 3, 9)
    assert heard == [("sft", 2, 9)]
