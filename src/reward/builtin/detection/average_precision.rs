//! Average precision as COCO's evaluation computes it (`pycocotools` 2.0, `COCOeval` on one image, all
//! scores 1). Knows boxes as it does: corner, width and height, of any sign.

/// A box with its category.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    pub label: &'a str,
    /// Left, top, right, bottom.
    pub sides: [f64; 4],
}

/// Overlaps at which a box is a match, as `numpy.linspace(0.5, 0.95, 10)` writes them.
const THRESHOLDS: [f64; 10] =
    [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.8999999999999999, 0.95];
/// Points of recall at which precision is read.
const RECALLS: usize = 101;
/// Boxes of a category that are looked at, the first ones.
const MOST: usize = 100;
/// Areas that count.
const AREAS: std::ops::RangeInclusive<f64> = 0.0..=1e10;

/// Corner, width and height.
#[derive(Debug, Clone, Copy)]
struct Corner([f64; 4]);

impl Corner {
    fn of(item: &Item<'_>) -> Corner {
        let [left, top, right, bottom] = item.sides;
        Corner([left, top, right - left, bottom - top])
    }
    fn area(&self) -> f64 {
        self.0[2] * self.0[3]
    }
    fn counts(&self) -> bool {
        AREAS.contains(&self.area())
    }
    fn iou(&self, other: &Corner) -> f64 {
        let common = |i: usize| {
            let end = (self.0[i] + self.0[i + 2]).min(other.0[i] + other.0[i + 2]);
            end - self.0[i].max(other.0[i])
        };
        let (width, height) = (common(0), common(1));
        if width <= 0.0 || height <= 0.0 {
            return 0.0;
        }
        let both = width * height;
        both / (self.area() + other.area() - both)
    }
}

/// Average precision over all thresholds, and at 0.5; -1 where no reference box counts. Boxes with labels
/// that the reference lacks are left out, as by everybody who uses COCO's evaluation this way.
pub(super) fn average_precision(truth: &[Item<'_>], named: &[Item<'_>]) -> [f64; 2] {
    let mut labels: Vec<&str> = Vec::new();
    for item in truth {
        if !labels.contains(&item.label) {
            labels.push(item.label);
        }
    }
    let (mut sums, mut categories) = ([0.0; THRESHOLDS.len()], 0);
    for label in labels {
        let of = |items: &[Item<'_>]| -> Vec<Corner> {
            items.iter().filter(|i| i.label == label).map(Corner::of).collect()
        };
        let mut truth = of(truth);
        let mut named = of(named);
        named.truncate(MOST);
        // Reference boxes that do not count come last, as they are matched last.
        truth.sort_by_key(|b| !b.counts());
        let counted = truth.iter().filter(|b| b.counts()).count();
        if counted == 0 {
            continue;
        }
        categories += 1;
        let overlaps: Vec<Vec<f64>> =
            named.iter().map(|n| truth.iter().map(|t| n.iou(t)).collect()).collect();
        for (sum, threshold) in sums.iter_mut().zip(THRESHOLDS) {
            let marks = matched(&overlaps, &truth, &named, counted, threshold);
            *sum += precision_over_recall(&marks, counted);
        }
    }
    if categories == 0 {
        return [-1.0; 2];
    }
    let points = (categories * RECALLS) as f64;
    [sums.iter().sum::<f64>() / (points * THRESHOLDS.len() as f64), sums[0] / points]
}

/// Whether a named box is a hit, a false one, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Hit,
    False,
    Left,
}

/// Gives each named box, in order, the free reference box that it overlaps most, the last of equals.
fn matched(
    overlaps: &[Vec<f64>],
    truth: &[Corner],
    named: &[Corner],
    counted: usize,
    threshold: f64,
) -> Vec<Mark> {
    let mut free = vec![true; truth.len()];
    let mut mark = |(row, of): (&Vec<f64>, &Corner)| {
        let (mut best, mut most) = (None, threshold.min(1.0 - 1e-10));
        for (j, &overlap) in row.iter().enumerate() {
            if !free[j] {
                continue;
            }
            // A box that counts goes before any that does not.
            if best.is_some_and(|b| b < counted) && j >= counted {
                break;
            }
            if overlap >= most {
                (best, most) = (Some(j), overlap);
            }
        }
        match best {
            Some(j) => {
                free[j] = false;
                if j < counted { Mark::Hit } else { Mark::Left }
            }
            None if of.counts() => Mark::False,
            None => Mark::Left,
        }
    };
    overlaps.iter().zip(named).map(&mut mark).collect()
}

/// Sum over the points of recall of the best precision at that recall or beyond.
fn precision_over_recall(marks: &[Mark], counted: usize) -> f64 {
    let (mut hits, mut wrong) = (0.0, 0.0);
    let mut recalls = Vec::with_capacity(marks.len());
    let mut precisions = Vec::with_capacity(marks.len());
    for mark in marks {
        hits += f64::from(*mark == Mark::Hit);
        wrong += f64::from(*mark == Mark::False);
        recalls.push(hits / counted as f64);
        precisions.push(hits / (wrong + hits + f64::EPSILON));
    }
    for i in (1..precisions.len()).rev() {
        precisions[i - 1] = f64::max(precisions[i - 1], precisions[i]);
    }
    let at = |r: usize| {
        let recall = r as f64 * 0.01;
        let first = recalls.partition_point(|x| *x < recall);
        precisions.get(first).copied().unwrap_or(0.0)
    };
    (0..RECALLS).map(at).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::table_rows;
    use serde_json::Value;

    /// Rows `{truth, named, map, map50}`, boxes as `[label, left, top, right, bottom]`, made by
    /// `tools/golden/rewards.py` with `pycocotools`.
    const GOLDEN: &str = include_str!("../../../../tests/data/rewards/coco_map.jsonl");

    fn items(value: &Value) -> Vec<Item<'_>> {
        let number = |v: &Value| v.as_f64().unwrap();
        let one = |v: &'_ Value| std::array::from_fn(|i| number(&v[i + 1]));
        let list = value.as_array().unwrap();
        list.iter().map(|v| Item { label: v[0].as_str().unwrap(), sides: one(v) }).collect()
    }

    #[test]
    fn equals_pycocotools() {
        let (mut rows, mut between) = (0, 0);
        for row in table_rows(GOLDEN) {
            let got = average_precision(&items(&row["truth"]), &items(&row["named"]));
            let want = ["map", "map50"].map(|k| row[k].as_f64().unwrap());
            let close = |i: usize| (got[i] - want[i]).abs() < 1e-12;
            assert!(close(0) && close(1), "{got:?}, not {want:?}: {row:?}");
            rows += 1;
            between += usize::from(want[0] > 0.05 && want[0] < 0.95);
        }
        assert!(rows >= 60 && between >= 30, "{rows} {between}");
    }
}
