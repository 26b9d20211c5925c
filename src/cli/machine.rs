//! Processor, memory and instruction sets of this machine, as the system tells them. What a system
//! does not tell is `None`; nothing is guessed and nothing is run.

use std::collections::HashSet;

/// What the system says about the machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Operating system and architecture.
    pub system: String,
    /// Name of the processor.
    pub processor: Option<String>,
    /// Physical cores.
    pub cores: Option<usize>,
    /// Threads that run at once, within the limits of this process.
    pub threads: usize,
    /// Vector instruction sets the processor has.
    pub instructions: Vec<&'static str>,
    /// Bytes of memory.
    pub memory_total: Option<u64>,
    /// Bytes of memory that programs can have now, within the limit of the container.
    pub memory_available: Option<u64>,
}

impl Machine {
    /// Asks the system.
    pub fn look() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (cpu, memory) = (text("/proc/cpuinfo"), text("/proc/meminfo"));
        let limit = container_limit(&text("/sys/fs/cgroup/memory.max"));
        let used = text("/sys/fs/cgroup/memory.current").trim().parse().unwrap_or(0u64);
        let left = limit.map(|l| l.saturating_sub(used));
        let total = kib_of(&memory, "MemTotal");
        let available = kib_of(&memory, "MemAvailable");
        Machine {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor: field_of(&cpu, "model name").map(str::to_string),
            cores: physical_cores(&cpu),
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            instructions: instructions(),
            memory_total: total.map(|t| t.min(limit.unwrap_or(t))),
            memory_available: available.map(|a| a.min(left.unwrap_or(a))),
        }
    }
}

/// The value after `name ... :` in a /proc file.
fn field_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name))?;
    line.split_once(':').map(|(_, v)| v.trim()).filter(|v| !v.is_empty())
}

/// A line such as `MemTotal: 24577 kB`, in bytes.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let number = field_of(text, name)?.split_whitespace().next()?;
    number.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Pairs of (package, core); hyper-threads share one.
fn physical_cores(cpuinfo: &str) -> Option<usize> {
    let pair = |block: &str| {
        Some((field_of(block, "physical id")?.to_string(), field_of(block, "core id")?.to_string()))
    };
    let cores: HashSet<(String, String)> = cpuinfo.split("\n\n").filter_map(pair).collect();
    (!cores.is_empty()).then_some(cores.len())
}

/// `memory.max` of control group version 2: bytes, or `max` for no limit.
fn container_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Vector instruction sets, those that speed up this program or would.
fn instructions() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        let all = [
            ("avx2", has!("avx2")),
            ("fma", has!("fma")),
            ("avx512f", has!("avx512f")),
            ("avx512vl", has!("avx512vl")),
            ("avx512bw", has!("avx512bw")),
            ("avx512dq", has!("avx512dq")),
            ("avx512_bf16", has!("avx512bf16")),
            ("avx512_vnni", has!("avx512vnni")),
        ];
        all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_system_are_understood() {
        let cpu = "processor\t: 0\nmodel name\t: Fast 9000: X\nphysical id\t: 0\ncore id\t: 1\n\n\
                   processor\t: 1\nmodel name\t: Fast\nphysical id\t: 0\ncore id\t: 1\n\n\
                   processor\t: 2\nphysical id\t: 0\ncore id\t: 2\n";
        assert_eq!(field_of(cpu, "model name"), Some("Fast 9000: X"));
        assert_eq!(physical_cores(cpu), Some(2));
        assert_eq!(physical_cores("processor : 0\n"), None);
        assert_eq!(kib_of("MemTotal:  2 kB\nMemFree: 1 kB\n", "MemTotal"), Some(2048));
        assert_eq!(container_limit("max\n"), None);
        assert_eq!(container_limit("1048576\n"), Some(1 << 20));
    }

    #[test]
    fn this_machine_has_a_thread() {
        let m = Machine::look();
        assert!(m.threads >= 1 && m.system.contains(std::env::consts::ARCH));
        if let (Some(total), Some(available)) = (m.memory_total, m.memory_available) {
            assert!(available <= total);
        }
    }
}
