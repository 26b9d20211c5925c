//! What Linux's driver for AMD devices tells in files (`Documentation/gpu/amdgpu/thermal.rst` and
//! `driver-misc.rst` of the kernel). Files only; no library is opened and nothing is written.

use super::{Figure, Reading};
use std::path::{Path, PathBuf};

/// The folder of one device.
#[derive(Debug)]
pub struct Card {
    folder: PathBuf,
    sensors: Option<PathBuf>,
}

/// Paths below a folder whose names begin with `prefix`, in order of their names.
fn below(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .collect();
    found.sort();
    found
}

/// Whether a device's folder says that it is at this PCI address.
fn is_at(folder: &Path, bus: &str) -> bool {
    let text = std::fs::read_to_string(folder.join("uevent")).unwrap_or_default();
    let slot = text.lines().find_map(|l| l.strip_prefix("PCI_SLOT_NAME="));
    slot.is_some_and(|s| s.trim().eq_ignore_ascii_case(bus))
}

impl Card {
    /// Finds the device at a PCI address (`0000:c1:00.0`) below `root`, which is `/sys` but in tests.
    ///
    /// # Errors
    /// The reason why there will be no readings.
    pub fn find(root: &Path, bus: &str) -> Result<Self, String> {
        let drm = root.join("class/drm");
        let cards = below(&drm, "card");
        let folder = cards.iter().map(|c| c.join("device")).find(|f| is_at(f, bus));
        let Some(folder) = folder else {
            return Err(match cards.is_empty() {
                true => format!("{} lists no cards", drm.display()),
                false => format!("no card in {} is at {bus}", drm.display()),
            });
        };
        let sensors = below(&folder.join("hwmon"), "hwmon").into_iter().next();
        Ok(Card { folder, sensors })
    }

    /// What the device says now.
    pub fn read(&self) -> Reading {
        let file = |name: &str| number(&self.folder.join(name));
        // Which of two files there is depends on the generation.
        let sensor = |names: [&str; 2]| {
            let Some(folder) = &self.sensors else {
                return Err(format!("{} has no sensors", self.folder.display()));
            };
            number(&folder.join(names[0])).or_else(|first| {
                number(&folder.join(names[1])).map_err(|second| format!("{first}; {second}"))
            })
        };
        Reading {
            memory_used: file("mem_info_vram_used"),
            memory_total: file("mem_info_vram_total"),
            // Microwatts.
            power: sensor(["power1_average", "power1_input"]).map(|uw| uw * 1e-6),
            utilization: file("gpu_busy_percent"),
            // Thousandths of a degree: at the edge of the chip, or at its hottest place.
            temperature: sensor(["temp1_input", "temp2_input"]).map(|m| m * 1e-3),
        }
    }
}

fn number(file: &Path) -> Figure {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    text.trim().parse().map_err(|_| format!("{}: `{}` is no number", file.display(), text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with two cards: one with the files of an older generation, one with those of a newer.
    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = root.path().join("class/drm").join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        for (card, slot) in [("card0", "0000:03:00.0"), ("card1", "0000:c1:00.0")] {
            let at = |name: &str| format!("{card}/device/{name}");
            write(&at("uevent"), &format!("DRIVER=amdgpu\nPCI_SLOT_NAME={slot}\n"));
            write(&at("mem_info_vram_total"), "206141652992\n");
            write(&at("mem_info_vram_used"), "297791488\n");
            write(&at("gpu_busy_percent"), "87\n");
        }
        write("card0/device/hwmon/hwmon3/power1_average", "140000000\n");
        write("card0/device/hwmon/hwmon3/temp1_input", "41000\n");
        write("card1/device/hwmon/hwmon7/power1_input", "612500000\n");
        write("card1/device/hwmon/hwmon7/temp2_input", "63500\n");
        write("card1-DP-1/status", "disconnected\n");
        root
    }

    #[test]
    fn the_card_at_the_address_is_read() {
        let root = tree();
        let read = |bus: &str| Card::find(root.path(), bus).unwrap().read();
        let (old, new) = (read("0000:03:00.0"), read("0000:C1:00.0"));
        assert_eq!((old.power, old.temperature), (Ok(140.0), Ok(41.0)));
        assert_eq!((new.power, new.temperature), (Ok(612.5), Ok(63.5)));
        assert_eq!(new.utilization, Ok(87.0));
        assert_eq!((new.memory_used, new.memory_total), (Ok(297_791_488.0), Ok(206_141_652_992.0)));
    }

    #[test]
    fn what_is_not_there_has_a_reason() {
        let root = tree();
        let why = Card::find(root.path(), "0000:99:00.0").unwrap_err();
        assert!(why.contains("no card") && why.contains("0000:99:00.0"), "{why}");
        let why = Card::find(&root.path().join("none"), "0000:03:00.0").unwrap_err();
        assert!(why.contains("lists no cards"), "{why}");

        let device = root.path().join("class/drm/card0/device");
        std::fs::write(device.join("gpu_busy_percent"), "busy\n").unwrap();
        std::fs::remove_dir_all(device.join("hwmon")).unwrap();
        let reading = Card::find(root.path(), "0000:03:00.0").unwrap().read();
        assert!(reading.utilization.unwrap_err().contains("`busy` is no number"));
        assert!(reading.power.unwrap_err().contains("no sensors"));
        assert_eq!(reading.memory_total, Ok(206_141_652_992.0));
    }
}
