//! Boxes on images: where they stand in a text, in whose coordinates, and how much two of them overlap.
//! A box is four finite numbers, left, top, right, bottom, with the right edges; nothing else is one.

use super::{Compat, ImageSizes, RewardSettings, Sample};
use crate::base::{Error, Result};
use crate::model::families::{BoxUnits, Family};
use regex::Regex;
use serde_json::Value;
use std::sync::LazyLock;

/// Coordinates that a model's boxes are in. Reference boxes are in pixels of the image's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BoxSpace {
    /// The family's; of a family that is not known, [`BoxSpace::Seen`].
    #[default]
    Auto,
    /// Pixels of the image as the model sees it (Qwen2.5-VL).
    Seen,
    /// 0 to 1000 across the image (Qwen2-VL, Qwen3-VL, InternVL, GLM-4.1V).
    Thousand,
    /// Those of the reference boxes, whatever they are: nothing is converted.
    Reference,
}

/// Names of [`BoxSpace`] in options.
pub const BOX_SPACES: [(&str, BoxSpace); 4] = [
    ("auto", BoxSpace::Auto),
    ("seen", BoxSpace::Seen),
    ("thousand", BoxSpace::Thousand),
    ("reference", BoxSpace::Reference),
];

impl BoxSpace {
    /// What [`BoxSpace::Auto`] is for models of this family: what their makers' boxes are in, or what
    /// VLM-R1 does with them.
    pub fn of_family(family: &dyn Family, compat: Compat) -> BoxSpace {
        match (compat, family.boxes()) {
            (Compat::VlmR1, _) if !family.vlm_r1_converts_boxes() => BoxSpace::Reference,
            (Compat::VlmR1, _) | (_, BoxUnits::SeenPixels) => BoxSpace::Seen,
            (_, BoxUnits::Thousand) => BoxSpace::Thousand,
        }
    }
}

/// Largest coordinate that is one: products of two of them stay exact enough to divide.
const FARTHEST: f64 = 1e7;

/// A box: left, top, right, bottom, in that order, `left < right` and `top < bottom`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// Left, top, right, bottom.
    pub sides: [f64; 4],
}

impl Rect {
    /// None if a number is not finite or absurd, or an edge is on the wrong side of its opposite.
    pub fn new(sides: [f64; 4]) -> Option<Rect> {
        let sane = sides.iter().all(|x| x.is_finite() && x.abs() <= FARTHEST);
        (sane && sides[0] < sides[2] && sides[1] < sides[3]).then_some(Rect { sides })
    }

    /// Of a JSON list of exactly four numbers.
    pub fn of_json(value: &Value) -> Option<Rect> {
        let list: Option<Vec<f64>> = value.as_array()?.iter().map(Value::as_f64).collect();
        Rect::new(list?.try_into().ok()?)
    }

    /// Area.
    pub fn area(&self) -> f64 {
        let [left, top, right, bottom] = self.sides;
        (right - left) * (bottom - top)
    }

    /// Area of the common part over that of the union, 0 to 1.
    pub fn iou(&self, other: &Rect) -> f64 {
        let (a, b) = (self.sides, other.sides);
        let width = a[2].min(b[2]) - a[0].max(b[0]);
        let height = a[3].min(b[3]) - a[1].max(b[1]);
        if width <= 0.0 || height <= 0.0 {
            return 0.0;
        }
        let both = width * height;
        both / (self.area() + other.area() - both)
    }

    /// What of it is inside an image of this width and height; None if nothing is.
    fn inside(&self, size: [usize; 2]) -> Option<Rect> {
        let [width, height] = size.map(|n| n as f64);
        let [left, top, right, bottom] = self.sides;
        Rect::new([left.max(0.0), top.max(0.0), right.min(width), bottom.min(height)])
    }
}

/// Converts a model's boxes to pixels of the image's file.
#[derive(Debug, Clone, Copy)]
pub struct Rescale {
    /// What a unit is in pixels of the file, across and down; None leaves boxes as they are.
    factors: Option<([f64; 2], [usize; 2])>,
}

impl Rescale {
    /// For the first image of a sample.
    ///
    /// # Errors
    /// If the space needs the size of an image and there is none.
    pub fn of(sample: &Sample<'_>, settings: &RewardSettings) -> Result<Rescale> {
        let space = settings.box_space;
        if space == BoxSpace::Reference {
            return Ok(Rescale { factors: None });
        }
        let Some(ImageSizes { original, seen }) = sample.images.first().copied() else {
            return Err(Error::data("boxes cannot be compared without an image")
                .expected("a row with an image, whose size the boxes refer to")
                .hint("--box_space reference compares boxes as they are written"));
        };
        let units = if space == BoxSpace::Thousand { [1000; 2] } else { seen };
        let factor = |i: usize| original[i] as f64 / units[i] as f64;
        Ok(Rescale { factors: Some(([factor(0), factor(1)], original)) })
    }

    /// Sees that a reference box can be in pixels of the file.
    ///
    /// # Errors
    /// If it lies beyond the image: then it is in other coordinates, and every score would be wrong.
    pub fn check(&self, reference: &Rect) -> Result<()> {
        let Some((_, [width, height])) = self.factors else { return Ok(()) };
        let [_, _, right, bottom] = reference.sides;
        // Annotations overhang an image by rounding, not by more.
        let beyond = |at: f64, size: usize| at > size as f64 * 1.02 + 1.0;
        if beyond(right, width) || beyond(bottom, height) {
            return Err(Error::data("the reference box leaves the image")
                .expected(format!("pixels of the image's file, {width} x {height}"))
                .found(format!("{:?}", reference.sides))
                .hint("--box_space reference, if references are in 0 to 1000 as VLM-R1's files for InternVL are"));
        }
        Ok(())
    }

    /// The box in pixels of the file, cut to the image; None if nothing of it is on the image.
    pub fn apply(&self, rect: Rect) -> Option<Rect> {
        let Some(([x, y], original)) = self.factors else { return Some(rect) };
        let [left, top, right, bottom] = rect.sides;
        Rect::new([left * x, top * y, right * x, bottom * y])?.inside(original)
    }
}

/// All lists of exactly four numbers in a text, as they stand, boxes or not.
pub fn four_number_lists(text: &str) -> Vec<[f64; 4]> {
    static LIST: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let number = r"\s*([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*";
        Regex::new(&format!(r"\[{}\]", [number; 4].join(","))).ok()
    });
    let Some(list) = LIST.as_ref() else { return Vec::new() };
    let numbers = |found: regex::Captures<'_>| -> [f64; 4] {
        // Digits of other scripts are digits to the pattern and no numbers here: never a box.
        std::array::from_fn(|i| found[i + 1].parse().unwrap_or(f64::NAN))
    };
    list.captures_iter(text).map(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::families::family_named;
    use crate::reward::test_sample;
    use serde_json::Map;

    fn rect(sides: [f64; 4]) -> Rect {
        Rect::new(sides).unwrap()
    }

    #[test]
    fn boxes_are_finite_and_upright() {
        for bad in [
            [0.0, 0.0, 0.0, 1.0],
            [2.0, 0.0, 1.0, 1.0],
            [0.0, 2.0, 1.0, 1.0],
            [f64::NAN, 0.0, 1.0, 1.0],
            [0.0, 0.0, f64::INFINITY, 1.0],
            [0.0, 0.0, 1e300, 1e300],
        ] {
            assert_eq!(Rect::new(bad), None, "{bad:?}");
        }
        assert_eq!(rect([0.0, 0.0, 4.0, 4.0]).iou(&rect([2.0, 0.0, 6.0, 4.0])), 1.0 / 3.0);
        assert_eq!(rect([0.0, 0.0, 4.0, 4.0]).iou(&rect([4.0, 0.0, 6.0, 4.0])), 0.0);
        assert_eq!(rect([0.5, 0.5, 1.5, 1.5]).iou(&rect([0.5, 0.5, 1.5, 1.5])), 1.0);
    }

    #[test]
    fn boxes_move_between_spaces() {
        let columns = Map::new();
        let images = [ImageSizes { original: [640, 480], seen: [320, 240] }];
        let sample = Sample { images: &images, ..test_sample("", "", &[], &columns) };
        let moved = |box_space, sides| {
            let settings = RewardSettings { box_space, ..RewardSettings::default() };
            Rescale::of(&sample, &settings).unwrap().apply(rect(sides)).map(|r| r.sides)
        };
        let tenth = [10.0, 10.0, 20.0, 20.0];
        assert_eq!(moved(BoxSpace::Seen, tenth), Some([20.0, 20.0, 40.0, 40.0]));
        assert_eq!(moved(BoxSpace::Auto, tenth), moved(BoxSpace::Seen, tenth));
        assert_eq!(
            moved(BoxSpace::Thousand, [0.0, 0.0, 500.0, 500.0]),
            Some([0.0, 0.0, 320.0, 240.0])
        );
        assert_eq!(moved(BoxSpace::Reference, [0.0, 0.0, 5e3, 5e3]), Some([0.0, 0.0, 5e3, 5e3]));
        assert_eq!(
            moved(BoxSpace::Seen, [300.0, -5.0, 400.0, 300.0]),
            Some([600.0, 0.0, 640.0, 480.0])
        );
        assert_eq!(moved(BoxSpace::Seen, [320.0, 0.0, 400.0, 10.0]), None);
        let without = Sample { images: &[], ..sample };
        assert!(Rescale::of(&without, &RewardSettings::default()).is_err());
    }

    #[test]
    fn families_differ() {
        let of = |name: &str, compat| BoxSpace::of_family(family_named(name).unwrap(), compat);
        assert_eq!(of("qwen2_5_vl", Compat::None), BoxSpace::Seen);
        assert_eq!(of("qwen3_vl", Compat::None), BoxSpace::Thousand);
        assert_eq!(of("qwen3_vl", Compat::VlmR1), BoxSpace::Seen);
        assert_eq!(of("internvl", Compat::None), BoxSpace::Thousand);
        assert_eq!(of("internvl", Compat::VlmR1), BoxSpace::Reference);
    }

    #[test]
    fn lists_of_four() {
        assert_eq!(
            four_number_lists("a [1, 2,3 ,4.5] [1,2,3] [1,2,3,4,5]"),
            [[1.0, 2.0, 3.0, 4.5]]
        );
        assert_eq!(four_number_lists("[[-1,2e0,3,4]]"), [[-1.0, 2.0, 3.0, 4.0]]);
        assert_eq!(four_number_lists("[1,2,3,4][5,6,7,8]").len(), 2);
        assert!(four_number_lists("[a,2,3,4] [1 2 3 4] (1,2,3,4)").is_empty());
        assert!(four_number_lists("[1,2,3,٤]")[0][3].is_nan());
    }
}
