import numpy as np

from image_pipeline.auditing.confident_learning import find_label_issues, judge_labels
from image_pipeline.auditing.cross_validation import assign_folds


def test_the_off_diagonal_of_the_confident_joint() -> None:
    """Worked out by hand: the thresholds are 0.6 (of the first three) and 0.65."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [0.3, 0.7]])
    issues = find_label_issues(probabilities, np.array([0, 0, 0, 1, 1]))
    assert issues.likely_error.tolist() == [False, False, True, False, False]
    assert issues.suggested.tolist() == [1, 1, 1, 0, 0]
    assert issues.score.tolist() == [0.9, 0.8, 0.1, 0.6, 0.7]
    assert issues.ranked().tolist() == [2, 3, 4, 1, 0]


def test_a_label_without_images_is_never_confident() -> None:
    probabilities = np.array([[0.1, 0.2, 0.7], [0.2, 0.7, 0.1]])
    issues = find_label_issues(probabilities, np.array([0, 1]))
    assert issues.likely_error.tolist() == [False, False]


def test_classes_are_spread_over_the_folds() -> None:
    labels = np.repeat([0, 1, 2], [10, 11, 3])
    folds = assign_folds(labels, 3, 0)
    assert np.bincount(folds).tolist() == [8, 8, 8]
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert (folds == assign_folds(labels, 3, 0)).all()
    assert (folds != assign_folds(labels, 3, 1)).any()


def test_any_model_decides_about_a_test_image_and_the_mean_scores_it() -> None:
    learned = np.array([[0.8, 0.2], [0.2, 0.8]])
    sure, unsure = [[0.1, 0.9], [0.1, 0.9]], [[0.7, 0.3], [0.1, 0.9]]
    tested = np.array([sure, unsure, unsure])
    issues = judge_labels(learned, tested, np.array([0, 1]), np.array([0, 1]))
    assert issues.likely_error.tolist() == [False, False, True, False]
    assert np.allclose(issues.score, [0.8, 0.8, 0.5, 0.9])
