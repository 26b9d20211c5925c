//! What a machine or its driver may lack, and what may go wrong on a device, by fakes: every case must
//! end the program with exit code 5 and an error that says what, where and what to do. Faults are made
//! in programs of their own, since a driver reads its environment once. Panics nowhere, computes little.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use grpo_rt::base::ErrorKind;
use grpo_rt::device::driver::{Driver, library_names};
use grpo_rt::device::{DeviceSpec, Vendor, open};
use serde_json::Value;

mod devices; // emulated and present devices

/// A question to the model of the lab, answered on a device.
const ASK: &str = "infer --model new --prompt red? --max_completion_length 3 --memory_budget 48MiB";

/// The program on words separated by spaces, with more variables than those of the caller that are
/// not for it.
fn run_in(dir: &Path, line: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grpo-rt"));
    for (name, _) in
        std::env::vars().filter(|(n, _)| n.starts_with("GRPO_RT_") || n.starts_with("GRT_"))
    {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    command.args(line.split_whitespace()).current_dir(dir).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn works(dir: &Path, line: &str, variables: &[(&str, &str)]) {
    let output = run_in(dir, line, variables);
    assert!(output.status.success(), "{line}: {}", said(&output));
}

/// A line that must end as a fault of the device does, with all `parts` in what it says.
fn fails(line: &str, variables: &[(&str, &str)], parts: &[&str]) {
    let output = run_in(lab(), line, variables);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(5), "{line}, {variables:?}: {text}");
    assert!(text.starts_with("error: ") && !text.contains("panicked"), "{line}: {text}");
    for part in parts.iter().chain(&["hint: ", "found: "]) {
        assert!(text.contains(part), "{line}, {variables:?}: no `{part}` in\n{text}");
    }
}

/// A folder with a data set of 16 rows and a new model; the emulator is built.
fn lab() -> &'static Path {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        devices::build_emulator();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fake_driver");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        works(&dir, "data make-shapes --output_dir shapes --num_rows 16 --seed 1 --quiet", &[]);
        let init = "init --preset tiny --vocab_size 320 --dataset_name shapes/train.jsonl --seed 1 \
            --output_dir new --quiet";
        works(&dir, init, &[]);
        dir
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Another emulator, built by its script from the objects of the first.
fn variant(name: &str, arguments: &[&str]) -> String {
    let out = lab().join(name);
    let copied = Command::new("cp").arg("-r").arg(root().join("target/emu")).arg(&out).status();
    assert!(copied.unwrap().success());
    let script = root().join("kernels/emu/build.sh");
    let built = Command::new("sh").arg(script).arg("--out").arg(&out).args(arguments).output();
    let built = built.unwrap();
    assert!(built.status.success(), "{}", said(&built));
    out.display().to_string()
}

/// Picks the name of a function at NVIDIA's or at AMD's.
type Pick = fn(&'static str, &'static str) -> &'static str;

/// Both emulated devices, with their names of the functions where a fault strikes.
fn both() -> [(&'static str, Pick); 2] {
    [("emu-cuda", |cuda, _| cuda), ("emu-hip", |_, hip| hip)]
}

/// What `doctor` says of a vendor.
fn side(variables: &[(&str, &str)], vendor: &str) -> Value {
    let output = run_in(lab(), "doctor --json --threads 1", variables);
    assert!(output.status.success(), "{}", said(&output));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sides = all["accelerators"].as_array().unwrap();
    sides.iter().find(|s| s["vendor"] == vendor).unwrap().clone()
}

#[test]
fn a_driver_that_is_not_there_is_a_reason() {
    for vendor in Vendor::ALL {
        let e = Driver::at(vendor, Path::new("no/such/driver.so")).unwrap_err();
        assert_eq!((e.kind(), e.exit_code()), (ErrorKind::Device, 5));
        let names: Vec<&str> = e.parts().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["what", "where", "expected", "found", "hint"], "{e}");
        assert!(e.to_string().contains("no/such/driver.so"), "{e}");
        if !Driver::is_there(vendor) {
            let e = Driver::installed(vendor).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Device);
            // The reason is the loader's, which names the library.
            let text = e.to_string();
            assert!(text.contains("hint:") && text.contains("cannot open shared object"), "{text}");
            assert!(text.contains(library_names(vendor)[0]), "{text}");
            let spec = DeviceSpec::Gpu(vendor, 0);
            assert_eq!(open(spec).unwrap_err().exit_code(), 5);
            fails(&format!("{ASK} --device {spec}"), &[], &["driver is installed"]);
            let side = side(&[], vendor.name());
            assert!(side["problem"]["hint"].as_str().unwrap().contains("driver"), "{side}");
            assert_eq!(side["devices"].as_array().unwrap().len(), 0);
        }
    }
}

#[test]
fn an_emulator_that_is_not_built_says_how_to_build_it() {
    let empty = tempfile::tempdir().unwrap();
    let folder = [("GRPO_RT_TEST_EMULATOR", empty.path().to_str().unwrap())];
    for (device, vendor) in [("emu-cuda", "cuda"), ("emu-hip", "hip")] {
        let line = format!("{ASK} --device {device}");
        fails(&line, &folder, &["the emulator is not built", "kernels/emu/build.sh"]);
        let emulator = &side(&folder, vendor)["emulator"];
        assert_eq!(emulator["problem"]["what"], "the emulator is not built");
        assert_eq!(emulator["build"], "sh kernels/emu/build.sh");
    }
}

#[test]
fn the_vendors_products_are_refused_where_there_are_none() {
    for (device, _) in both() {
        let line = format!("{ASK} --device {device} --matmul vendor");
        fails(&line, &[], &["no vendor's matrix products", "--matmul own", device]);
    }
    let output = run_in(lab(), &format!("{ASK} --matmul vendor"), &[]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("--matmul own"), "{}", said(&output));
}

#[test]
fn a_library_that_is_no_driver_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for vendor in ["cuda", "hip"] {
        std::fs::write(dir.path().join(format!("libgrt_emu_{vendor}.so")), "text").unwrap();
        let line = format!("{ASK} --device emu-{vendor}");
        let folder = [("GRPO_RT_TEST_EMULATOR", dir.path().to_str().unwrap())];
        fails(&line, &folder, &["cannot open a driver library", "expected: "]);
    }
}

#[test]
fn a_missing_function_is_named() {
    for (device, symbol) in [("emu-cuda", "cuGraphLaunch"), ("emu-hip", "hipGraphLaunch")] {
        let folder = variant(&format!("without_{symbol}"), &["--without-symbol", symbol]);
        let line = format!("{ASK} --device {device}");
        let parts = ["lacks a function", symbol, "update the driver", "stub"];
        fails(&line, &[("GRPO_RT_TEST_EMULATOR", &folder)], &parts);
        let vendor = device.trim_start_matches("emu-");
        let problem = &side(&[("GRPO_RT_TEST_EMULATOR", &folder)], vendor)["emulator"]["problem"];
        assert_eq!(problem["expected"], symbol);
    }
}

#[test]
fn a_driver_that_refuses_says_why() {
    for (device, name) in both() {
        let line = format!("{ASK} --device {device}");
        let vendor = device.trim_start_matches("emu-");
        let old =
            if vendor == "cuda" { ("11080", "11.8", "12.8") } else { ("50700000", "5.7", "6.0") };
        let too_old = format!("version {} or later", old.2);
        let init = name("cuInit", "hipInit");
        let stub = format!("{init}:1:34");
        let mismatch = format!("{init}:1:803");
        for (variable, value, what, parts) in [
            (
                "GRT_EMU_DRIVER_VERSION",
                old.0,
                "the driver is too old",
                &[too_old.as_str(), old.1][..],
            ),
            ("GRT_EMU_DEVICES", "0", "there is no device", &["init returned 100", "container"]),
            ("GRT_EMU_FAIL", &stub, "the driver library is a stub", &["mount the host's"]),
            ("GRT_EMU_FAIL", &mismatch, "of two versions", &["restart the machine"]),
        ] {
            fails(&line, &[(variable, value)], &[&[what], parts].concat());
            let problem = &side(&[(variable, value)], vendor)["emulator"]["problem"];
            assert!(problem["what"].as_str().unwrap().contains(what), "{problem}");
            assert!(problem["hint"].is_string(), "{problem}");
        }
    }
}

#[test]
fn memory_that_is_not_there_is_said_to_be_missing() {
    for (device, name) in both() {
        let malloc = name("cuMemAlloc_v2", "hipMalloc");
        let first = format!("{malloc}:1:2");
        let line = format!("{ASK} --device {device}");
        let parts = ["not enough free memory", "allocate 50331648 bytes", "--memory_budget"];
        fails(&line, &[("GRT_EMU_FAIL", &first)], &parts);
        fails(&line, &[("GRT_EMU_MEMORY", "1048576")], &parts[..1]);
        // Nothing is allocated a second time: memory is planned, then taken once.
        works(lab(), &line, &[("GRT_EMU_FAIL", &format!("{malloc}:2:2"))]);
        // Without a budget the device's memory is the budget.
        let open_end = line.replace("--memory_budget 48MiB", "");
        let parts = ["the memory budget is too small", "1048576 bytes"];
        fails(&open_end, &[("GRT_EMU_MEMORY", "1048576")], &parts);
    }
}

#[test]
fn calls_that_fail_are_errors_that_name_the_call() {
    for (device, name) in both() {
        let line = format!("{ASK} --device {device}");
        let launch = name("cuLaunchKernel", "hipModuleLaunchKernel");
        let download = name("cuMemcpyDtoHAsync_v2", "hipMemcpyDtoHAsync");
        for (symbol, call, code, parts) in [
            (
                name("cuStreamCreate", "hipStreamCreateWithFlags"),
                1,
                46,
                &["in use exclusively"][..],
            ),
            (name("cuModuleLoadData", "hipModuleLoadData"), 1, 209, &["no kernel image", "ARCHS"]),
            (name("cuModuleLoadData", "hipModuleLoadData"), 2, 200, &["does not understand"]),
            (name("cuModuleGetFunction", "hipModuleGetFunction"), 1, 500, &["lacks a kernel"]),
            (launch, 1, 719, &["a kernel failed", "launch ", "--resume_from_checkpoint true"]),
            (launch, 40, 719, &["a kernel failed", "blocks of"]),
            (launch, 17, 12345, &["a call to the driver failed", "returned 12345"]),
            (
                name("cuMemcpyHtoDAsync_v2", "hipMemcpyHtoDAsync"),
                3,
                214,
                &["memory error", "reset"],
            ),
            (download, 1, 999, &["the device is lost", "copy from the device"]),
            (name("cuStreamSynchronize", "hipStreamSynchronize"), 1, 700, &["must not", "report"]),
        ] {
            let fault = format!("{symbol}:{call}:{code}");
            fails(&line, &[("GRT_EMU_FAIL", &fault)], &[&[device], parts].concat());
        }
    }
}

/// A kernel with a real defect: it writes far beyond its result.
#[test]
fn a_kernel_that_writes_beyond_its_result_is_caught() {
    let folder = lab().join("bad_kernels");
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(root().join("kernels/common")).unwrap() {
        let path = entry.unwrap().path();
        let mut text = std::fs::read_to_string(&path).unwrap();
        if path.ends_with("rows.cu") {
            assert!(text.contains("(S*)a.y"), "the kernel that this test breaks has changed");
            text = text.replace("(S*)a.y", "(S*)((char*)a.y + 0x40000000)");
        }
        std::fs::write(folder.join(path.file_name().unwrap()), text).unwrap();
    }
    let emulator = variant("bad", &["--kernels", folder.to_str().unwrap()]);
    for (device, _) in both() {
        let line = format!("{ASK} --device {device}");
        let parts = ["a kernel touched memory that it must not", "gather_rows_", "report"];
        fails(&line, &[("GRPO_RT_TEST_EMULATOR", &emulator)], &parts);
    }
}

/// A driver whose device falls off the bus once the file `LOST_WHEN` names is there: from then on every
/// call fails. All other functions are the emulator's.
const LOSING: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static int lost(void) {
    const char* file = getenv("LOST_WHEN");
    return file && access(file, F_OK) == 0;
}
#define CALL(name, parameters, arguments)                                   \
    int name parameters {                                                   \
        static int (*real) parameters;                                      \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #name);      \
        return lost() ? 999 : real arguments;                               \
    }
typedef unsigned long long Ptr;
CALL(cuCtxSetCurrent, (void* c), (c))
CALL(cuMemFree_v2, (Ptr p), (p))
CALL(cuMemcpyHtoDAsync_v2, (Ptr to, const void* from, size_t n, void* s), (to, from, n, s))
CALL(cuMemcpyDtoHAsync_v2, (void* to, Ptr from, size_t n, void* s), (to, from, n, s))
CALL(cuMemcpyDtoDAsync_v2, (Ptr to, Ptr from, size_t n, void* s), (to, from, n, s))
CALL(cuMemsetD8Async, (Ptr to, unsigned char b, size_t n, void* s), (to, b, n, s))
CALL(cuStreamSynchronize, (void* s), (s))
CALL(cuGraphLaunch, (void* g, void* s), (g, s))
CALL(cuGraphExecDestroy, (void* g), (g))
CALL(cuLaunchKernel,
     (void* f, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared,
      void* s, void** p, void** e),
     (f, x, y, z, bx, by, bz, shared, s, p, e))
"#;

/// Rows of a run's metrics, without times, speeds and what other programs do.
fn lasting(run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(lab().join(run).join("metrics.jsonl")).unwrap();
    let passing = ["time/", "perf/", "memory/", "device/"];
    let row = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().retain(|name, _| {
            // A session begins with an empty cache of image features.
            name != "step_time"
                && !name.ends_with("/vision_images")
                && !passing.iter().any(|p| name.starts_with(p))
        });
        row
    };
    text.lines().map(row).collect()
}

#[test]
fn a_run_whose_device_is_lost_goes_on_from_its_last_checkpoint() {
    let (losing, source) = (lab().join("losing"), lab().join("losing.c"));
    std::fs::create_dir_all(&losing).unwrap();
    std::fs::write(&source, LOSING).unwrap();
    let (library, emulator) = (losing.join("libgrt_emu_cuda.so"), root().join("target/emu"));
    // A name of its own, or the loader would take the two libraries for one.
    let real = losing.join("librealdriver.so");
    std::fs::copy(emulator.join("libgrt_emu_cuda.so"), &real).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-Wl,--no-as-needed", "-o"]).arg(&library).arg(&source).arg(&real);
    let out = cc.output().unwrap();
    assert!(out.status.success(), "{}", said(&out));

    let line = "train --model new --dataset_name shapes/train.jsonl --reward_funcs length \
        --num_generations 4 --per_device_train_batch_size 8 --max_completion_length 4 --max_steps 4 \
        --save_steps 1 --scale_rewards none --use_peft --lora_r 4 --lora_dropout 0 --lr 1e-2 \
        --memory_budget 96MiB --quiet --device emu-cuda --output_dir";
    works(lab(), &format!("{line} whole"), &[]);
    let checkpoint = lab().join("lost/checkpoint-2");
    let variables = [
        ("GRPO_RT_TEST_EMULATOR", losing.to_str().unwrap()),
        ("LOST_WHEN", checkpoint.to_str().unwrap()),
    ];
    let parts = ["the device is lost", "returned 999", "--resume_from_checkpoint true"];
    fails(&format!("{line} lost"), &variables, &parts);
    assert!(checkpoint.is_dir() && !lab().join("lost/checkpoint-3").exists());

    works(lab(), &format!("{line} lost --resume_from_checkpoint true"), &[]);
    assert_eq!(lasting("lost"), lasting("whole"));
    assert_eq!(lasting("lost").len(), 4);
    let weights = |run: &str| {
        let file = lab().join(run).join("checkpoint-4/adapter_model.safetensors");
        std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    };
    assert!(weights("lost") == weights("whole"), "the adapters differ");
    // The device's own figures are logged where there is a device.
    let text = std::fs::read_to_string(lab().join("whole/metrics.jsonl")).unwrap();
    assert_eq!(text.matches("\"device/memory_used\":").count(), 4);
    assert!(!text.contains("device/power"), "an emulated device draws no power");
}
