//! Compiles the kernels with the compilers that this machine has, and writes the table of images that
//! the program embeds (`src/device/images.rs`). Without a compiler the table is shorter and nothing
//! else differs. Never downloads, never links a vendor's library, never runs a kernel.
//!
//! `GRPO_RT_KERNELS=auto|require|none` (auto), `GRPO_RT_NVCC`, `GRPO_RT_HIP_CLANG` (paths),
//! `GRPO_RT_CUDA_ARCHS` (sm_80,sm_90a,compute_90), `GRPO_RT_HIP_ARCHS` (gfx942,gfx90a).

use std::collections::BTreeSet;
use std::env::var;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, io, thread};

/// Folders of kernels, with the vendor and the architecture that each is for (none: every one).
const FOLDERS: &[(&str, Option<(&str, &str)>)] =
    &[("common", None), ("sm90", Some(("Cuda", "sm_90a"))), ("gfx942", Some(("Hip", "gfx942")))];
const VARIABLES: &[&str] = &[
    "GRPO_RT_KERNELS",
    "GRPO_RT_NVCC",
    "GRPO_RT_HIP_CLANG",
    "GRPO_RT_CUDA_ARCHS",
    "GRPO_RT_HIP_ARCHS",
    "CUDA_HOME",
    "CUDA_PATH",
    "ROCM_PATH",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
];
const HOW: &str = "run tools/setup/kernel_compilers.sh, which installs nvcc 13.0 and clang 19";
/// Images of the shared cache that nothing used for this long are deleted.
const KEEP: Duration = Duration::from_secs(14 * 24 * 3600);

type Result<T> = std::result::Result<T, String>;

/// A compiler that was found fit, or why none was. An `Err` outside it stops the build.
type Found = std::result::Result<Compiler, String>;

/// A compiler of one vendor's kernels.
struct Compiler {
    vendor: &'static str,
    path: PathBuf,
    /// Name and version, free of paths.
    name: String,
    archs: Vec<String>,
}

/// One image to be made.
struct Job<'a> {
    compiler: &'a Compiler,
    module: String,
    /// Path from the package root, so that no image holds a path of this machine.
    source: PathBuf,
    /// What the table says: `fatbin`, `sm_90` or the exact AMD architecture.
    arch: String,
    flags: Vec<String>,
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    VARIABLES.iter().for_each(|v| println!("cargo:rerun-if-env-changed={v}"));
    if let Err(text) = build() {
        eprintln!("error: {text}");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    let out = PathBuf::from(var("OUT_DIR").map_err(|e| e.to_string())?);
    // <target>/<profile>/build/<package>/out: the cache serves every profile.
    let cache = out.ancestors().nth(4).ok_or("OUT_DIR is too short")?.join("kernels");
    let mode = var("GRPO_RT_KERNELS").unwrap_or_else(|_| "auto".into());
    if !["auto", "require", "none"].contains(&mode.as_str()) {
        return Err(format!("GRPO_RT_KERNELS is `{mode}`; expected auto, require or none"));
    }
    let found = if mode == "none" {
        ["Cuda", "Hip"].map(|v| (v, Err("GRPO_RT_KERNELS=none".to_string())))
    } else {
        [("Cuda", find_nvcc()?), ("Hip", find_clang()?)]
    };
    for (vendor, compiler) in &found {
        // Only tests read it: the tools that take images apart lie beside their compiler's file (which
        // a link may name).
        let file = compiler.as_ref().ok().and_then(|c| fs::canonicalize(&c.path).ok());
        let folder = file.as_ref().and_then(|f| f.parent()).unwrap_or(Path::new(""));
        println!(
            "cargo:rustc-env=GRPO_RT_BUILD_TOOLS_{}={}",
            vendor.to_uppercase(),
            folder.display()
        );
        match compiler {
            Ok(c) => println!("cargo:rerun-if-changed={}", c.path.display()),
            Err(why) if mode == "require" => return Err(format!("{why}\nhint: {HOW}")),
            Err(_) => {}
        }
    }
    let compilers: Vec<&Compiler> = found.iter().filter_map(|(_, c)| c.as_ref().ok()).collect();
    let jobs = jobs(&compilers)?;
    fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    compile_all(&jobs, &cache, &out)?;
    drop_old(&cache);
    write_table(&out.join("kernels.rs"), &jobs, &found)
}

/// All images that the kernels and compilers of this machine ask for, in order of their names.
fn jobs<'a>(compilers: &[&'a Compiler]) -> Result<Vec<Job<'a>>> {
    let mut jobs = Vec::new();
    for (folder, only) in FOLDERS {
        let folder = Path::new("kernels").join(folder);
        if !folder.is_dir() {
            continue;
        }
        println!("cargo:rerun-if-changed={}", folder.display());
        let listed = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut sources: Vec<PathBuf> = listed.filter_map(|e| Some(e.ok()?.path())).collect();
        sources.sort();
        for source in sources {
            let ending = source.extension().and_then(|e| e.to_str()).unwrap_or_default();
            if !["cu", "hip"].contains(&ending) {
                continue;
            }
            let module = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            for compiler in compilers {
                if let Some((_, arch)) = only.filter(|(v, _)| *v == compiler.vendor) {
                    jobs.extend(job(compiler, &module, &source, Some(arch)));
                } else if only.is_none() && compiler.vendor == "Cuda" {
                    jobs.extend(job(compiler, &module, &source, None));
                } else if only.is_none() {
                    // A file of an architecture's own folder replaces the one for all.
                    let own = |a: &String| Path::new("kernels").join(a).join(&module);
                    let archs =
                        compiler.archs.iter().filter(|a| !own(a).with_extension("hip").exists());
                    jobs.extend(archs.filter_map(|a| job(compiler, &module, &source, Some(a))));
                }
            }
        }
    }
    Ok(jobs)
}

/// The image of one source for one architecture, or for all of them in one file.
fn job<'a>(
    compiler: &'a Compiler,
    module: &str,
    source: &Path,
    only: Option<&str>,
) -> Option<Job<'a>> {
    let archs: Vec<&str> = compiler
        .archs
        .iter()
        .map(String::as_str)
        .filter(|a| only.is_none_or(|o| o == *a))
        .collect();
    if archs.is_empty() {
        return None;
    }
    let mut flags: Vec<String> = vec!["-std=c++17".into(), "-O3".into()];
    let arch = if compiler.vendor == "Cuda" {
        flags.extend(["--fatbin".into(), "--compress-mode=size".into()]);
        for arch in archs {
            // The long spelling: the short one runs a second pass that knows no `a` instructions.
            let number = arch.trim_start_matches("sm_").trim_start_matches("compute_");
            flags.push(format!("-gencode=arch=compute_{number},code={arch}"));
        }
        only.map_or("fatbin".into(), |a| a.trim_end_matches('a').to_string())
    } else {
        let fixed = "-x hip --offload-device-only --no-gpu-bundle-output -nogpulib -nogpuinc \
                     -ffp-contract=fast -fno-strict-aliasing -mcode-object-version=5";
        flags.extend(fixed.split_whitespace().map(String::from));
        flags.push(format!("--offload-arch={}", archs[0]));
        archs[0].to_string()
    };
    Some(Job { compiler, module: module.into(), source: source.into(), arch, flags })
}

impl Job<'_> {
    fn file(&self) -> String {
        format!("{}-{}-{}", self.module, self.compiler.vendor, self.arch)
    }

    /// Name in the cache: equal names have equal content.
    fn key(&self) -> Result<String> {
        let mut texts = BTreeSet::new();
        read_with_headers(&self.source, &mut texts)?;
        let mut hash = DefaultHasher::new();
        let environment = ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"].map(|v| var(v).ok());
        (&self.compiler.name, &self.flags, environment, texts).hash(&mut hash);
        Ok(format!("{}-{:016x}", self.file(), hash.finish()))
    }

    /// Puts the image into `out`: from the cache, or compiled.
    fn run(&self, cache: &Path, out: &Path) -> Result<()> {
        let key = self.key()?;
        let image = cache.join(format!("{key}.image"));
        if !image.exists() {
            let part = cache.join(format!("{key}.{}.part", std::process::id()));
            let mut command = Command::new(&self.compiler.path);
            command.args(&self.flags).arg(&self.source).arg("-o").arg(&part);
            let done = command.output().map_err(|e| format!("{}: {e}", self.compiler.name))?;
            let said = String::from_utf8_lossy(&done.stderr).into_owned()
                + &String::from_utf8_lossy(&done.stdout);
            if !done.status.success() {
                let source = self.source.display();
                let name = &self.compiler.name;
                return Err(format!("{name} failed on {source} ({})\n{said}", self.arch));
            }
            // Every pass over the source says the same.
            let warns = |l: &&str| l.contains("warning") && !l.starts_with("Remark");
            let warnings: BTreeSet<&str> = said.lines().filter(warns).collect();
            warnings.iter().for_each(|line| println!("cargo:warning={line}"));
            fs::rename(&part, &image).map_err(|e| format!("{}: {e}", image.display()))?;
        }
        let to = out.join(format!("{}.image", self.file()));
        fs::copy(&image, &to).map(|_| ()).map_err(|e| format!("{}: {e}", to.display()))
    }
}

/// Collects the text of a source and of all headers that it includes by quotes, and tells cargo to
/// watch them. The emulator's part is left out: compilers for devices never read it.
fn read_with_headers(path: &Path, texts: &mut BTreeSet<(PathBuf, String)>) -> Result<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        // A header behind an #if that is off; if it is needed, the compiler says so.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let included: Vec<PathBuf> = text
        .lines()
        .filter_map(|l| {
            l.trim().strip_prefix('#')?.trim().strip_prefix("include")?.trim().strip_prefix('"')
        })
        .filter_map(|l| l.split('"').next())
        .map(|name| name.split('/').fold(folder.to_path_buf(), step))
        .filter(|p| !p.starts_with("kernels/emu"))
        .collect();
    if texts.insert((path.to_path_buf(), text)) {
        println!("cargo:rerun-if-changed={}", path.display());
        included.iter().try_for_each(|p| read_with_headers(p, texts))?;
    }
    Ok(())
}

/// One component of a path further, with `..` resolved, so that a header has one name.
fn step(mut path: PathBuf, name: &str) -> PathBuf {
    match name {
        ".." => drop(path.pop()),
        name => path.push(name),
    }
    path
}

/// Runs the jobs on as many threads as cargo grants; the first failure is returned.
fn compile_all(jobs: &[Job], cache: &Path, out: &Path) -> Result<()> {
    let threads = var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).clamp(1, 16);
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            job.run(cache, out)?;
        }
        Ok(())
    };
    thread::scope(|s| {
        let running: Vec<_> = (0..threads).map(|_| s.spawn(worker)).collect();
        running.into_iter().try_for_each(|t| t.join().map_err(|_| "a compiling thread panicked")?)
    })
}

/// Deletes what the cache has kept for too long. Profiles have copies of their own.
fn drop_old(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if age.is_some_and(|a| a > KEEP) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Writes `IMAGES` and `COMPILERS`, free of paths.
fn write_table(path: &Path, jobs: &[Job], found: &[(&str, Found)]) -> Result<()> {
    let mut text = String::from("/// The compiled kernels.\npub static IMAGES: &[Image] = &[\n");
    for job in jobs {
        let (module, vendor, arch) = (&job.module, job.compiler.vendor, &job.arch);
        let bytes =
            format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{}.image\"))", job.file());
        text += &format!(
            "    Image {{ module: {module:?}, vendor: Vendor::{vendor}, arch: {arch:?}, \
             bytes: &Aligned(*{bytes}).0 }},\n"
        );
    }
    text += "];\n\n/// What compiled them, or why nothing did.\npub static COMPILERS: &[Compiler] = &[\n";
    for (vendor, compiler) in found {
        let outcome = match compiler {
            Ok(c) => format!("Ok({:?})", format!("{} for {}", c.name, c.archs.join(", "))),
            Err(why) => format!("Err({:?})", why.lines().next().unwrap_or_default()),
        };
        text += &format!("    Compiler {{ vendor: Vendor::{vendor}, outcome: {outcome} }},\n");
    }
    text += "];\n";
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// The architectures of a variable, or the usual ones.
fn archs(variable: &str, usual: &str, beginnings: &[&str]) -> Result<Vec<String>> {
    let text = var(variable).unwrap_or_else(|_| usual.into());
    let archs: Vec<String> = text.split(',').map(|a| a.trim().to_string()).collect();
    match archs.iter().find(|a| !beginnings.iter().any(|b| a.len() > b.len() && a.starts_with(b))) {
        Some(wrong) => Err(format!("{variable} has `{wrong}`; expected a list like {usual}")),
        None => Ok(archs),
    }
}

/// First number like 13.0.88 after `marker` in the output of `path --version`.
fn version(path: &Path, marker: &str) -> Result<(u32, u32, String)> {
    let place = path.file_name().unwrap_or_default().display();
    let said = Command::new(path).arg("--version").output().map_err(|e| format!("{place}: {e}"))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let number = said.split(marker).nth(1).and_then(|t| t.split([' ', ',', '\n', '(', '-']).next());
    let number = number.ok_or(format!("{place} --version does not say `{marker}`"))?;
    let mut parts = number.split('.').map_while(|n| n.parse().ok());
    Ok((parts.next().unwrap_or(0), parts.next().unwrap_or(0), number.to_string()))
}

/// The first candidate that is fit, with its name and version. One that a variable names must be.
fn first_fit(
    (variable, name): (&str, &str),
    candidates: impl FnOnce() -> Vec<PathBuf>,
    fit: impl Fn(&Path) -> Result<String>,
) -> Result<std::result::Result<(PathBuf, String), String>> {
    if let Ok(path) = var(variable) {
        let fit = fit(Path::new(&path)).map_err(|e| format!("{variable}={path}: {e}"))?;
        return Ok(Ok((path.into(), fit)));
    }
    let mut refused = String::new();
    for path in candidates().into_iter().filter(|p| p.is_file()) {
        match fit(&path) {
            Ok(name) => return Ok(Ok((path, name))),
            Err(why) => refused += &format!("; not fit: {why}"),
        }
    }
    if !refused.is_empty() {
        println!("cargo:warning=no {name} for kernels{refused}");
    }
    Ok(Err(format!("no {name} was found{refused}")))
}

/// Every place on PATH that may have `name`.
fn on_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).collect()
}

/// nvcc of an installation, of the folder that tools/setup fills, or of python's packages.
fn find_nvcc() -> Result<Found> {
    let archs = archs("GRPO_RT_CUDA_ARCHS", "sm_80,sm_90a,compute_90", &["sm_", "compute_"])?;
    let candidates = || {
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
        let mut list: Vec<PathBuf> = homes.map(|h| PathBuf::from(h).join("bin/nvcc")).collect();
        list.extend(on_path("nvcc"));
        list.push("/usr/local/cuda/bin/nvcc".into());
        let data = var("XDG_DATA_HOME").or(var("HOME").map(|h| format!("{h}/.local/share")));
        let lib = PathBuf::from(data.unwrap_or_default()).join("grpo-rt/nvcc/lib");
        let pythons = fs::read_dir(lib).into_iter().flatten().flatten().map(|e| e.path());
        list.extend(pythons.map(|p| p.join("site-packages/nvidia/cu13/bin/nvcc")));
        let ask = "import nvidia; print(*nvidia.__path__, sep='\\n')";
        let said = Command::new("python3").args(["-c", ask]).output().map(|o| o.stdout);
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
        list.extend(said.lines().map(|l| Path::new(l).join("cu13/bin/nvcc")));
        list
    };
    let found = first_fit(("GRPO_RT_NVCC", "nvcc"), candidates, |path| {
        let (major, minor, text) = version(path, ", V")?;
        if (major, minor) < (12, 8) {
            return Err(format!("nvcc {text}; 13.0 is expected, 12.8 is the oldest that will do"));
        }
        if (major, minor) != (13, 0) {
            println!("cargo:warning=nvcc {text}: kernels are developed and measured with 13.0");
        }
        Ok(format!("nvcc {text}"))
    })?;
    Ok(found.map(|(path, name)| Compiler { vendor: "Cuda", path, name, archs }))
}

/// clang of ROCm or of the distribution, with AMD's target and its linker.
fn find_clang() -> Result<Found> {
    // Kernels are built for waves of 64 lanes.
    let archs = archs("GRPO_RT_HIP_ARCHS", "gfx942,gfx90a", &["gfx9"])?;
    let candidates = || {
        let rocm = var("ROCM_PATH").unwrap_or_else(|_| "/opt/rocm".into());
        let mut list = vec![PathBuf::from(rocm).join("llvm/bin/clang++")];
        let newest_first = (19..=22).rev().map(|v| format!("clang++-{v}"));
        let names = ["amdclang++".into()].into_iter().chain(newest_first).chain(["clang++".into()]);
        list.extend(names.flat_map(|n| on_path(&n)));
        list
    };
    let found = first_fit(("GRPO_RT_HIP_CLANG", "clang 19"), candidates, |path| {
        let (major, _, text) = version(path, "clang version ")?;
        if major < 19 {
            return Err(format!("clang {text}; 19 is the oldest that will do"));
        }
        let ask = |what: &str| {
            let said = Command::new(path).arg(what).output().map(|o| o.stdout).unwrap_or_default();
            String::from_utf8_lossy(&said).trim().to_string()
        };
        if !ask("--print-targets").contains("amdgcn") {
            return Err(format!("clang {text} has no amdgcn target"));
        }
        if !Path::new(&ask("--print-prog-name=ld.lld")).is_absolute() {
            return Err(format!("clang {text} has no ld.lld beside it: install lld-{major}"));
        }
        Ok(format!("clang {text}"))
    })?;
    Ok(found.map(|(path, name)| Compiler { vendor: "Hip", path, name, archs }))
}
