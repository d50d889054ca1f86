"""Errors of class labels against ground truth, and where the borders between classes are."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from depth_ros.core.labels import UNLABELED


def edge_mask(labels: np.ndarray, radius: float) -> np.ndarray:
    """Return which pixels lie within `radius` pixels of a semantic edge, bool (H, W).

    An edge runs between two pixels that touch along a side and are of different classes; there is
    none to an unlabelled pixel (255). Radius 1 selects the pixels on both sides of the edge, radius
    2 also their neighbours, and so on, by Euclidean distance.

    Raises:
        ValueError: if `labels` is not (H, W) or the radius is not positive.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or not radius > 0:
        raise ValueError(f'labels {labels.shape} must be (H, W) and the radius {radius} positive')
    away = np.ones(labels.shape, np.uint8)
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        edge = (labels[a] != labels[b]) & (labels[a] != UNLABELED) & (labels[b] != UNLABELED)
        away[a][edge] = 0
        away[b][edge] = 0
    if away.all():
        return np.zeros(labels.shape, bool)
    return cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) < radius


def confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of each pair of classes.

    Args:
        predicted, truth: Class ids, integers (H, W). Pixels whose truth is 255 do not count;
            a predicted 255 is a miss of the true class.
        classes: Number of classes.

    Returns:
        int64 (classes, classes + 1): row = truth, column = prediction, the last one = 255.

    Raises:
        ValueError: if the shapes differ or an id is neither a class nor 255.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.shape != truth.shape:
        raise ValueError(f'prediction {predicted.shape} and ground truth {truth.shape} differ')
    for name, ids in (('prediction', predicted), ('ground truth', truth)):
        strange = ids[(ids >= classes) & (ids != UNLABELED)]
        if strange.size:
            raise ValueError(f'{name} has class id {strange[0]}, but there are {classes} classes')
    counts = truth != UNLABELED
    row = truth[counts].astype(np.int64)
    column = np.minimum(predicted[counts], classes).astype(np.int64)
    flat = np.bincount(row * (classes + 1) + column, minlength=classes * (classes + 1))
    return flat.reshape(classes, classes + 1)


def iou(matrix: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class from `confusion`, float64 (classes,).

    NaN for a class that is neither in the truth nor in the prediction.
    """
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=1) + matrix[:, : len(matrix)].sum(axis=0) - hits
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(union > 0, hits / union, np.nan)


def mean_iou(matrix: np.ndarray) -> float:
    """Return the mean IoU over the classes that the ground truth has, from `confusion`.

    Raises:
        ValueError: if the ground truth has no pixel of any class.
    """
    present = matrix.sum(axis=1) > 0
    if not present.any():
        raise ValueError('no labelled pixels: the ground truth is 255 everywhere')
    return float(iou(matrix)[present].mean())


def semantics_table(matrix: np.ndarray, names: Sequence[str]) -> dict:
    """Return what an evaluation reports of a `confusion`.

    These are mean_iou, pixel_accuracy and, for the classes that the ground truth has, iou by name.

    Raises:
        ValueError: if the ground truth has no pixel of any class.
    """
    present = matrix.sum(axis=1) > 0
    return {
        'mean_iou': mean_iou(matrix),
        'pixel_accuracy': float(np.trace(matrix) / matrix.sum()),
        'iou': {n: float(v) for n, v, p in zip(names, iou(matrix), present, strict=True) if p},
    }
