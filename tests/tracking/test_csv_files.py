"""Curves as CSV files."""

from sae_nfm.tracking.trackers import LOGS, CSVFiles


def test_the_curve_of_a_run_that_was_interrupted_is_kept(tmp_path):
    tracker = CSVFiles(tmp_path, {}, {})
    for loss in (3, 2, 1):
        with tracker.stage("sae", tmp_path / "artifact", 1) as logger:
            logger.log_metrics({"loss": loss}, step=0)
            logger.save()
    written = {path.name: path.read_text() for path in (tmp_path / LOGS / "sae").glob("*.csv")}
    names = ("metrics.1.csv", "metrics.2.csv", "metrics.csv")
    assert written == {name: f"loss,step\n{loss},0\n" for name, loss in zip(names, (3, 2, 1), strict=True)}
