//! Takes the embedded kernels apart and holds their machine code against `kernels/expect.toml`: nothing
//! in local memory, no float atomics, matrix instructions where they are claimed. Runs no kernel and
//! needs no device; without kernel compilers it says so and checks only its own parsers.
//!
//! `GRPO_RT_TEST_UPDATE=1` writes `kernels/resources.tsv`. `GRPO_RT_KERNELS=require` makes missing
//! compilers a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use grpo_rt::device::Vendor;
use grpo_rt::device::images::{COMPILERS, IMAGES, Image};

/// Folders of the compilers that built this program (empty: none did).
const NVIDIA_TOOLS: &str = env!("GRPO_RT_BUILD_TOOLS_CUDA");
const AMD_TOOLS: &str = env!("GRPO_RT_BUILD_TOOLS_HIP");

const HEADER: &str = "module\tkernel\ttarget\tregisters\tagprs\tsgprs\tshared\tstack\tspills\t\
                      instructions\tmatrix\tasync\n";

/// One kernel in the machine code of one target.
#[derive(Debug, Default, Clone)]
struct Kernel {
    module: String,
    name: String,
    /// `sm_90a`, `gfx942`, ...
    target: String,
    /// Per thread; on AMD the vector registers, accumulation registers among them.
    registers: u64,
    agprs: u64,
    sgprs: u64,
    /// Static shared memory in bytes.
    shared: u64,
    /// Bytes of local memory per thread.
    stack: u64,
    /// Registers (AMD) or instructions (NVIDIA) that go to local memory.
    spills: u64,
    /// Instructions by opcode.
    opcodes: BTreeMap<String, u64>,
}

impl Kernel {
    fn count(&self, beginnings: &[&str]) -> u64 {
        let counted =
            self.opcodes.iter().filter(|(o, _)| beginnings.iter().any(|b| o.starts_with(b)));
        counted.map(|(_, n)| n).sum()
    }

    fn nvidia(&self) -> bool {
        self.target.starts_with("sm_")
    }

    fn row(&self) -> String {
        let numbers = [
            self.registers,
            self.agprs,
            self.sgprs,
            self.shared,
            self.stack,
            self.spills,
            self.opcodes.values().sum(),
            self.count(&["HMMA", "HGMMA", "v_mfma"]),
            self.count(&["LDGSTS", "UBLKCP", "UTMALDG"]),
        ];
        let numbers = numbers.map(|n| n.to_string()).join("\t");
        format!("{}\t{}\t{}\t{numbers}\n", self.module, self.name, self.target)
    }
}

/// What `kernels/expect.toml` asks of the kernels that a pattern names.
struct Expectation {
    module: String,
    names: Vec<String>,
    nvidia: Vec<String>,
    amd: Vec<String>,
    double: bool,
    stack: u64,
}

impl Expectation {
    fn names(&self, kernel: &Kernel) -> bool {
        let own = |n: &String| named(n, &kernel.name);
        self.module == kernel.module && self.names.iter().any(own)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn expectations() -> Vec<Expectation> {
    let text = std::fs::read_to_string(root().join("kernels/expect.toml")).unwrap();
    let table: toml::Table = toml::from_str(&text).unwrap();
    let list = table.get("kernels").and_then(|k| k.as_array()).cloned().unwrap_or_default();
    let known = ["module", "names", "why", "nvidia", "amd", "double", "stack"];
    let one = |entry: &toml::Value| {
        let entry = entry.as_table().unwrap();
        let strange = entry.keys().find(|k| !known.contains(&k.as_str()));
        assert!(strange.is_none(), "kernels/expect.toml has the key {strange:?}; known: {known:?}");
        let text = |k: &str| entry.get(k).map(|v| v.as_str().unwrap().to_string());
        let words = |k: &str| {
            let list = entry.get(k).map(|v| v.as_array().unwrap().as_slice()).unwrap_or_default();
            list.iter().map(|w| w.as_str().unwrap().to_string()).collect()
        };
        assert!(text("why").is_some_and(|w| w.len() > 10), "an expectation without its reason");
        Expectation {
            module: text("module").expect("an expectation without `module`"),
            names: words("names"),
            nvidia: words("nvidia"),
            amd: words("amd"),
            double: entry.get("double").is_some_and(|v| v.as_bool().unwrap()),
            stack: entry.get("stack").map_or(0, |v| v.as_integer().unwrap() as u64),
        }
    };
    list.iter().map(one).collect()
}

/// Whether `name` is named by a pattern, in which `*` stands for any text.
fn named(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|i| rest.is_char_boundary(i) && named(after, &rest[i..]))
        }),
    }
}

/// Output of a tool beside a compiler.
fn ask(folder: &str, tool: &str, arguments: &[&str], file: &Path) -> String {
    // cuobjdump looks for nvdisasm on PATH.
    let path = std::env::var("PATH").unwrap_or_default();
    let run = Command::new(Path::new(folder).join(tool))
        .args(arguments)
        .arg(file)
        .env("PATH", format!("{folder}:{path}"))
        .output();
    let how = "run tools/setup/kernel_compilers.sh";
    let run = run.unwrap_or_else(|e| panic!("{tool} cannot be run ({e}): {how}"));
    let error = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{tool} {arguments:?} failed: {error}; {how}");
    String::from_utf8_lossy(&run.stdout).into_owned()
}

/// Every kernel of every embedded image, taken apart once.
fn kernels() -> &'static [Kernel] {
    static KERNELS: OnceLock<Vec<Kernel>> = OnceLock::new();
    KERNELS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut all = Vec::new();
        for image in IMAGES {
            let file = folder.path().join(format!("{}-{}", image.module, image.arch));
            std::fs::write(&file, image.bytes).unwrap();
            let mut found = match image.vendor {
                Vendor::Cuda => {
                    let usage = ask(NVIDIA_TOOLS, "cuobjdump", &["--dump-resource-usage"], &file);
                    let code = ask(NVIDIA_TOOLS, "cuobjdump", &["--dump-sass"], &file);
                    nvidia_kernels(&usage, &code)
                }
                Vendor::Hip => {
                    let notes = ask(AMD_TOOLS, "llvm-readelf", &["--notes"], &file);
                    let code = ask(AMD_TOOLS, "llvm-objdump", &["-d", "--no-show-raw-insn"], &file);
                    amd_kernels(image.arch, &notes, &code)
                }
            };
            assert!(!found.is_empty(), "{} ({}) holds no kernel", image.module, image.arch);
            found.iter_mut().for_each(|k| k.module = image.module.to_string());
            all.append(&mut found);
        }
        all.sort_by(|a, b| (&a.module, &a.name, &a.target).cmp(&(&b.module, &b.name, &b.target)));
        all
    })
}

/// Kernels of a fatbin from cuobjdump's two outputs.
fn nvidia_kernels(usage: &str, code: &str) -> Vec<Kernel> {
    let mut kernels: BTreeMap<(String, String), Kernel> = BTreeMap::new();
    let (mut target, mut name) = (String::new(), String::new());
    for line in usage.lines().map(str::trim) {
        if let Some(arch) = line.strip_prefix("arch = ") {
            target = arch.to_string();
        } else if let Some(function) = line.strip_prefix("Function ") {
            name = function.trim_end_matches(':').to_string();
        } else if line.starts_with("REG:") {
            let field = |key: &str| {
                let found = line.split_whitespace().find_map(|f| f.strip_prefix(key));
                found.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {key} in {line}"))
            };
            let kernel = Kernel {
                name: name.clone(),
                target: target.clone(),
                registers: field("REG:"),
                shared: field("SHARED:"),
                stack: field("STACK:") + field("LOCAL:"),
                ..Kernel::default()
            };
            kernels.insert((target.clone(), name.clone()), kernel);
        }
    }
    for line in code.lines().map(str::trim) {
        if let Some(arch) = line.strip_prefix("code for ") {
            target = arch.to_string();
        } else if let Some(function) = line.strip_prefix("Function : ") {
            name = function.to_string();
        } else if let Some((_, rest)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/")) {
            let mut words = rest.split_whitespace().filter(|w| !w.starts_with('@'));
            let Some(opcode) = words.next().filter(|o| !o.starts_with("/*")) else { continue };
            let kernel = kernels.get_mut(&(target.clone(), name.clone()));
            let kernel = kernel.unwrap_or_else(|| panic!("{name} ({target}) has no usage"));
            *kernel.opcodes.entry(opcode.trim_end_matches(';').to_string()).or_default() += 1;
        }
    }
    let spilled = |mut k: Kernel| {
        k.spills = k.count(&["LDL", "STL"]);
        k
    };
    kernels.into_values().map(spilled).collect()
}

/// Kernels of a code object from its metadata and its disassembly.
fn amd_kernels(target: &str, notes: &str, code: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    // The metadata is YAML; an item of `amdhsa.kernels` begins with "  - " and ends before the next.
    let list = notes.split("amdhsa.kernels:").nth(1).unwrap_or_default();
    let list = list.split("\namdhsa.").next().unwrap_or_default();
    for item in list.split("\n  - ").skip(1) {
        let field = |key: &str| {
            let found = item.lines().find_map(|l| l.trim_start().strip_prefix(key));
            found.map(|v| v.trim().to_string()).unwrap_or_else(|| panic!("no {key} in {item}"))
        };
        let number = |key: &str| field(key).parse::<u64>().unwrap();
        kernels.push(Kernel {
            name: field(".symbol:").trim_end_matches(".kd").to_string(),
            target: target.to_string(),
            registers: number(".vgpr_count:"),
            agprs: number(".agpr_count:"),
            sgprs: number(".sgpr_count:"),
            shared: number(".group_segment_fixed_size:"),
            stack: number(".private_segment_fixed_size:"),
            spills: number(".vgpr_spill_count:"),
            ..Kernel::default()
        });
    }
    let mut current = None;
    for line in code.lines() {
        if let Some(name) = line.split_once('<').and_then(|(_, n)| n.strip_suffix(">:")) {
            current = kernels.iter().position(|k| k.name == name);
        } else if let (Some(i), true) = (current, line.starts_with(['\t', ' '])) {
            let Some(opcode) = line.split_whitespace().next() else { continue };
            *kernels[i].opcodes.entry(opcode.to_string()).or_default() += 1;
        }
    }
    kernels
}

/// Says what cannot be checked here. With GRPO_RT_KERNELS=require that is a failure.
fn something_to_check() -> bool {
    let required = std::env::var("GRPO_RT_KERNELS").is_ok_and(|v| v == "require");
    for compiler in COMPILERS {
        if let Err(why) = compiler.outcome {
            let what = format!("kernels of {:?} are not checked: {why}", compiler.vendor);
            assert!(!required, "{what}; run tools/setup/kernel_compilers.sh");
            eprintln!("{what}; tools/setup/kernel_compilers.sh installs a compiler");
        }
    }
    !IMAGES.is_empty()
}

/// What is wrong with one kernel.
fn complaints(kernel: &Kernel, expectations: &[Expectation]) -> Vec<String> {
    let mut wrong = Vec::new();
    let own = || expectations.iter().filter(|e| e.names(kernel));
    let stack = own().map(|e| e.stack).max().unwrap_or(0);
    if kernel.stack > stack || (kernel.spills > 0 && stack == 0) {
        let (bytes, spills) = (kernel.stack, kernel.spills);
        wrong.push(format!("{bytes} bytes of local memory, {spills} spills; allowed {stack}"));
    }
    let float = [".F32", ".F64", ".F16", ".BF16", "_f32", "_f64", "_f16", "_bf16"];
    let atomic = |o: &str| o.starts_with("ATOM") || o.starts_with("RED.") || o.contains("atomic");
    let double = |o: &str| {
        let sass = ["DADD", "DMUL", "DFMA", "DSETP", "DMNMX"].iter().any(|d| o.starts_with(d));
        sass || o.contains(".F64") || (o.starts_with("v_") && o.contains("_f64"))
    };
    let those = |what: &dyn Fn(&str) -> bool| {
        let found = kernel.opcodes.keys().map(String::as_str).filter(|o| what(o));
        found.collect::<Vec<_>>().join(", ")
    };
    let atomics = those(&|o| atomic(o) && float.iter().any(|f| o.contains(f)));
    if !atomics.is_empty() {
        wrong.push(format!("{atomics}: float atomics, whose order is chance"));
    }
    let doubles = those(&double);
    if !doubles.is_empty() && !own().any(|e| e.double) {
        wrong.push(format!("{doubles}: double precision that nothing expects"));
    }
    for wanted in own().flat_map(|e| if kernel.nvidia() { &e.nvidia } else { &e.amd }) {
        if kernel.count(&[wanted]) == 0 {
            wrong.push(format!("has no {wanted}"));
        }
    }
    let place = format!("{}: {} ({})", kernel.module, kernel.name, kernel.target);
    wrong.into_iter().map(|w| format!("{place}: {w}")).collect()
}

#[test]
fn machine_code_is_as_expected() {
    if !something_to_check() {
        return;
    }
    let expectations = expectations();
    let mut wrong: Vec<String> =
        kernels().iter().flat_map(|k| complaints(k, &expectations)).collect();
    for expectation in expectations {
        let of_module = || kernels().iter().filter(|k| k.module == expectation.module);
        let idle =
            |n: &&String| of_module().next().is_some() && !of_module().any(|k| named(n, &k.name));
        if let Some(names) = expectation.names.iter().find(idle) {
            let module = &expectation.module;
            wrong.push(format!("kernels/expect.toml: `{names}` names no kernel of {module}"));
        }
    }
    assert!(wrong.is_empty(), "{} complaints\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn kernels_have_one_name_and_all_targets() {
    let of = |image: &Image| (image.module, image.vendor, image.arch);
    let distinct: BTreeSet<String> = IMAGES.iter().map(|i| format!("{:?}", of(i))).collect();
    assert_eq!(distinct.len(), IMAGES.len(), "two images for the same module and architecture");
    if !something_to_check() {
        return;
    }
    let mut wrong = Vec::new();
    let mut modules: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for kernel in kernels() {
        modules.entry(&kernel.name).or_default().insert(&kernel.module);
    }
    for (name, modules) in modules.iter().filter(|(_, m)| m.len() > 1) {
        wrong.push(format!("{name} is in several modules: {modules:?}"));
    }
    let targets: BTreeSet<&str> = kernels().iter().map(|k| k.target.as_str()).collect();
    for kernel in kernels() {
        let same = |k: &&Kernel| k.name == kernel.name && k.module == kernel.module;
        let own = kernels().iter().filter(same).count();
        let everywhere = root().join(format!("kernels/common/{}.cu", kernel.module)).exists();
        if everywhere && own != targets.len() {
            wrong.push(format!("{}: {} is not on all of {targets:?}", kernel.module, kernel.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_resource_table_is_of_these_kernels() {
    if !something_to_check() {
        return;
    }
    let path = root().join("kernels/resources.tsv");
    if std::env::var_os("GRPO_RT_TEST_UPDATE").is_some() {
        let all = COMPILERS.iter().all(|c| c.outcome.is_ok());
        assert!(all, "the table needs the compilers of all vendors: {COMPILERS:?}");
        let rows: String = kernels().iter().map(Kernel::row).collect();
        std::fs::write(&path, HEADER.to_string() + &rows).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(HEADER), "kernels/resources.tsv has other columns");
    let built: BTreeSet<String> =
        kernels().iter().map(|k| format!("{}\t{}\t{}", k.module, k.name, k.target)).collect();
    let targets: BTreeSet<&str> = kernels().iter().map(|k| k.target.as_str()).collect();
    let listed: BTreeSet<String> = text
        .lines()
        .skip(1)
        .filter(|l| l.split('\t').nth(2).is_some_and(|t| targets.contains(t)))
        .map(|l| l.split('\t').take(3).collect::<Vec<_>>().join("\t"))
        .collect();
    let missing: Vec<_> = built.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&built).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "kernels/resources.tsv is old: missing {missing:#?}, gone {gone:#?}; run tools/kernels/record.sh"
    );
}

#[test]
fn the_expectations_can_be_read() {
    let list = expectations();
    assert!(
        list.iter().all(|e| !e.nvidia.is_empty() || !e.amd.is_empty() || e.double || e.stack > 0)
    );
    assert!(named("matmul_*_bf16", "matmul_fwd_bf16") && named("*", "x") && named("a*c*", "abcd"));
    assert!(!named("matmul_*_bf16", "matmul_fwd_f32") && !named("a", "ab") && !named("*b", "abc"));
}

#[test]
fn nvidia_output_is_understood() {
    let usage = "arch = sm_90a\nResource usage:\n Common:\n  GLOBAL:0\n Function k_f32:\n  \
                 REG:40 STACK:8 SHARED:1024 LOCAL:0 CONSTANT[0]:552 TEXTURE:0\n";
    let code = "\tcode for sm_90a\n\t\tFunction : k_f32\n\t.headerflags\t@\"EF_CUDA\"\n\
                /*0000*/  HMMA.16816.F32.BF16 R4, R8, R12, R4 ; /* 0x00 */\n  /* 0x0f */\n\
                /*0010*/  @!P0 LDL R1, [R2] ;   /* 0x00 */\n/*0020*/  RED.E.ADD.F32 [R2], R1 ;\n\
                /*0030*/  EXIT ;\n";
    let kernels = nvidia_kernels(usage, code);
    let k = &kernels[0];
    assert_eq!((kernels.len(), k.registers, k.shared, k.stack, k.spills), (1, 40, 1024, 8, 1));
    assert_eq!((k.opcodes.values().sum::<u64>(), k.count(&["HMMA"])), (4, 1));
    let wish = |names: &str, nvidia: &[&str]| Expectation {
        module: String::new(),
        names: vec![names.into()],
        nvidia: nvidia.iter().map(|w| w.to_string()).collect(),
        amd: vec!["v_mfma".into()],
        double: false,
        stack: 0,
    };
    let text = complaints(k, &[wish("k_*", &["HMMA", "LDGSTS"]), wish("other", &["QGMMA"])]);
    assert_eq!(text.len(), 3, "{text:?}");
    assert!(text[0].contains("8 bytes") && text[1].contains("RED") && text[2].contains("LDGSTS"));
}

#[test]
fn amd_output_is_understood() {
    let notes = "amdhsa.kernels:\n  - .agpr_count:     4\n    .args:\n      - .offset:         0\n        \
                 .size:           24\n    .group_segment_fixed_size: 512\n    .name:           k_f32\n    \
                 .private_segment_fixed_size: 16\n    .sgpr_count:     14\n    .symbol:         k_f32.kd\n    \
                 .vgpr_count:     8\n    .vgpr_spill_count: 2\n    .wavefront_size: 64\n\
                 amdhsa.target:   amdgcn-amd-amdhsa--gfx942\namdhsa.version:\n  - 1\n  - 2\n...\n";
    let code = "\n0000000000001d00 <k_f32>:\n\tv_mfma_f32_16x16x16_bf16 a[0:3], v[0:1]  // 0:\n\
                \tglobal_atomic_add_f32 v0, v1, s[0:1] // 8:\n\tv_add_f64 v[0:1], v[2:3]\n\ts_endpgm // 10:\n";
    let kernels = amd_kernels("gfx942", notes, code);
    let k = &kernels[0];
    assert_eq!((kernels.len(), k.registers, k.agprs, k.sgprs), (1, 8, 4, 14));
    assert_eq!((k.shared, k.stack, k.spills, k.count(&["v_mfma"])), (512, 16, 2, 1));
    let text = complaints(k, &[]);
    assert_eq!(text.len(), 3, "{text:?}");
    assert!(text[0].contains("16 bytes") && text[1].contains("float atomic"));
    assert!(text[2].contains("v_add_f64"));
}
