//! What devices say about themselves, from a made-up management library that the test compiles. The
//! files of AMD's driver are tested where they are read (`src/device/telemetry/sysfs.rs`).

use grpo_rt::device::telemetry::nvml::Watched;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library with the functions of nvml.h that the program calls, for one device at 0000:1b:00.0.
const LIBRARY: &str = r#"
#include <string.h>
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Utilization;
static int device, started;
int nvmlInit_v2(void) { started = 1; return 0; }
const char* nvmlErrorString(int code) { return code == 6 ? "Not Found" : "Not Supported"; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** handle) {
    if (!started) return 1;
    *handle = &device;
    return strcmp(bus, "0000:1b:00.0") ? 6 : 0;
}
int nvmlDeviceGetMemoryInfo(void* h, Memory* m) {
    if (h != &device) return 2;
    m->total = 85899345920ull; m->free = 80530636800ull; m->used = 5368709120ull;
    return 0;
}
int nvmlDeviceGetUtilizationRates(void* h, Utilization* u) {
    u->gpu = 93; u->memory = 41;
    return h == &device ? 0 : 2;
}
int nvmlDeviceGetPowerUsage(void* h, unsigned* mw) {
    *mw = 351250;
    return h == &device ? 0 : 2;
}
#ifndef WITHOUT_TEMPERATURE
int nvmlDeviceGetTemperature(void* h, int sensor, unsigned* degrees) { return 3; }
#endif
int nvmlSystemGetDriverVersion(char* text, unsigned length) {
    strncpy(text, "580.65.06", length);
    return 0;
}
"#;

/// Compiles the library into a folder.
fn compile(dir: &Path, name: &str, define: Option<&str>) -> PathBuf {
    let (source, library) = (dir.join("nvml.c"), dir.join(name));
    std::fs::write(&source, LIBRARY).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
    cc.args(define.map(|d| format!("-D{d}")));
    let out = cc.output().expect("there is a C compiler: cc");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    library
}

#[test]
fn the_management_library_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let library = compile(dir.path(), "libnvml.so", None);
    let watched = Watched::open(&library, "0000:1b:00.0").unwrap();
    assert_eq!(watched.driver_version().unwrap(), "580.65.06");
    let reading = watched.read();
    assert_eq!(reading.memory_used, Ok(5_368_709_120.0));
    assert_eq!(reading.memory_total, Ok(85_899_345_920.0));
    assert!((reading.power.unwrap() - 351.25).abs() < 1e-9);
    assert_eq!(reading.utilization, Ok(93.0));
    let why = reading.temperature.unwrap_err();
    assert_eq!(why, "nvmlDeviceGetTemperature returned 3 (Not Supported)");
}

#[test]
fn what_the_library_lacks_is_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let why = Watched::open(dir.path().join("libnone.so"), "0000:1b:00.0").unwrap_err();
    assert!(why.contains("libnone.so cannot be opened"), "{why}");
    let library = compile(dir.path(), "libnvml.so", None);
    let why = Watched::open(&library, "0000:99:00.0").unwrap_err();
    assert_eq!(why, "looking for 0000:99:00.0 returned 6 (Not Found)");
    let library = compile(dir.path(), "libold.so", Some("WITHOUT_TEMPERATURE"));
    let why = Watched::open(&library, "0000:1b:00.0").unwrap_err();
    assert_eq!(why, "the management library has no nvmlDeviceGetTemperature");
}
