//! Products on devices: every tile gives the same bits, and a row gives the same bits alone and among
//! others. Accuracy is the conformance test's business, not this one's.

use grpo_rt::base::{DType, Philox, RngDomain};
use grpo_rt::device::{Command, Device, DeviceArena, DevicePtr, Vendor};
use grpo_rt::ops::gpu::matmul::{Lie, Out, Pair, Product, Tile, on_tile, product, tiles};
use grpo_rt::ops::launch::{Bound, Launcher};
use grpo_rt::ops::{Stored, TensorType};
use half::bf16;
use std::sync::Arc;

mod devices; // emulated and present devices

/// Sizes of a product of two terms.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    rows: usize,
    cols: usize,
    depth: usize,
    depth2: usize,
}

/// A product with its tensors on a device.
struct Placed {
    arena: DeviceArena,
    dtype: DType,
    product: Product,
    slots: Vec<(DevicePtr, TensorType)>,
    y_bytes: usize,
}

fn number(dtype: DType, x: f32) -> Vec<u8> {
    match dtype {
        DType::BF16 => bf16::store(x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    }
}

/// Random numbers; stream `i` begins the same way whatever the length.
fn bytes(dtype: DType, len: usize, i: u32) -> Vec<u8> {
    let mut stream = Philox::new(5, RngDomain::Test).stream(0, i);
    (0..len).flat_map(|_| number(dtype, stream.normal())).collect()
}

impl Placed {
    fn new(device: &Arc<dyn Device>, dtype: DType, lie: Lie, out: Out, s: Sizes) -> Self {
        let shape = |across: bool, outer: usize, depth: usize| match across {
            true => TensorType::matrix(depth, outer, dtype),
            false => TensorType::matrix(outer, depth, dtype),
        };
        let (a_across, b_across) = (lie == Lie::Dw, lie != Lie::Forward);
        let y_type = if out == Out::Store { dtype } else { DType::F32 };
        let types = [
            shape(a_across, s.rows, s.depth),
            shape(b_across, s.cols, s.depth),
            shape(a_across, s.rows, s.depth2),
            shape(b_across, s.cols, s.depth2),
            TensorType { shape: vec![s.cols], dtype: DType::F32 },
            TensorType::matrix(s.rows, s.cols, y_type),
        ];
        let size = |t: &TensorType| t.len() * t.dtype.size();
        let arena = DeviceArena::reserve(device, 16 << 20).unwrap();
        let (mut at, mut slots) = (0, Vec::new());
        for (i, t) in types.iter().enumerate() {
            let here = arena.at(at, size(t));
            if i < 5 {
                device.upload(here, &bytes(t.dtype, t.len(), i as u32)).unwrap();
            }
            slots.push((here, t.clone()));
            at += size(t).next_multiple_of(64);
        }
        let pair = |i: usize, depth| Pair { a: slots[i].0, b: slots[i + 1].0, depth };
        let product = Product {
            second: Some(pair(2, s.depth2)),
            bias: (out == Out::Store).then(|| slots[4].0),
            out,
            ..Product::new(lie, pair(0, s.depth), slots[5].0, [s.rows, s.cols])
        };
        let y_bytes = size(&types[5]);
        Placed { arena, dtype, product, slots, y_bytes }
    }

    /// Runs `f` with a launcher of this product's slots; returns what it enqueued.
    fn launch<T>(&self, f: impl FnOnce(&mut Launcher) -> T) -> (T, Vec<Command>) {
        let bound: Vec<Bound> = self.slots.iter().map(|(at, ty)| Bound { at: *at, ty }).collect();
        let mut commands = Vec::new();
        let (inputs, outputs) = bound.split_at(5);
        let properties = self.arena.device().properties();
        let mut launcher = Launcher::new(inputs, outputs, None, None, properties, &mut commands);
        assert_eq!(launcher.float_type(), self.dtype);
        let result = f(&mut launcher);
        (result, commands)
    }

    fn tiles(&self) -> Vec<Tile> {
        self.launch(|k| tiles(k, &self.product)).0
    }

    /// The bytes of the result on one tile. What they are added to is zero.
    fn on(&self, tile: &Tile) -> Vec<u8> {
        let device = self.arena.device();
        let before = if self.product.out == Out::Add { 0 } else { 0xff };
        let to = self.product.y;
        let (_, mut commands) = self.launch(|k| {
            k.fill(to, before, self.y_bytes);
            on_tile(k, &self.product, tile);
        });
        assert_eq!(commands.len(), 2);
        device.submit(&std::mem::take(&mut commands)).unwrap();
        let mut y = vec![0; self.y_bytes];
        device.download(to, &mut y).unwrap();
        y
    }
}

fn all_devices() -> Vec<Arc<dyn Device>> {
    let emulated = [Vendor::Cuda, Vendor::Hip].map(devices::emulated);
    emulated.into_iter().chain(devices::present()).collect()
}

/// Rows of 16 bytes; more than one of the largest tile, and a rest of each; an inner size that ends
/// within a step of every tile.
const ALIGNED: Sizes = Sizes { rows: 136, cols: 272, depth: 168, depth2: 24 };

/// Rows of 8 bytes.
const HALF: Sizes = Sizes { rows: 132, cols: 140, depth: 68, depth2: 12 };

fn tiles_agree(sizes: Sizes, least: usize) {
    for device in all_devices() {
        for dtype in [DType::F32, DType::BF16] {
            for (lie, out) in
                [(Lie::Forward, Out::Store), (Lie::Dx, Out::Store), (Lie::Dw, Out::Add)]
            {
                let placed = Placed::new(&device, dtype, lie, out, sizes);
                let tiles = placed.tiles();
                assert!(tiles.len() >= least, "{dtype:?} {lie:?}: only {} tiles", tiles.len());
                let first = placed.on(&tiles[0]);
                for tile in &tiles[1..] {
                    let same = placed.on(tile) == first;
                    assert!(same, "{}: {tile:?} differs", device.properties().spec);
                }
            }
        }
    }
}

#[test]
fn every_tile_gives_the_same_bits() {
    tiles_agree(ALIGNED, 3);
}

#[test]
fn tiles_for_rows_of_8_bytes_give_the_same_bits() {
    tiles_agree(HALF, 3);
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    for device in all_devices() {
        for dtype in [DType::F32, DType::BF16] {
            for out in [Out::Store, Out::Wide] {
                let run = |rows| {
                    let sizes = Sizes { rows, ..ALIGNED };
                    let placed = Placed::new(&device, dtype, Lie::Forward, out, sizes);
                    let tile = *placed.tiles().last().unwrap();
                    let (_, chosen) = placed.launch(|k| {
                        product(k, &placed.product);
                    });
                    placed.arena.device().submit(&chosen).unwrap();
                    let mut y = vec![0; placed.y_bytes];
                    placed.arena.device().download(placed.product.y, &mut y).unwrap();
                    assert!(y == placed.on(&tile), "{rows} rows: the chosen tile differs");
                    y
                };
                let alone = run(1);
                for rows in [2, 17, 70, 136] {
                    assert!(run(rows).starts_with(&alone), "{dtype:?}: row 0 of {rows} differs");
                }
            }
        }
    }
}
