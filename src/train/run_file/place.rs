//! Where a process and a file are: whether a process is there, and whether a file system shows the locks
//! of other machines. Reads what the system tells and changes nothing.

use std::path::Path;

/// Whether this machine has a process of that number.
pub fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Whether a lock that a process of any machine holds on a file in `dir` is seen here. Local file
/// systems (a container has a name of its own, on the same disk) and network ones that pass locks on:
/// yes. Mounted so that locks stay local, or of a kind that is not known to pass them on: no.
pub fn carries_locks(dir: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let full = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    carried(&table, &full)
}

/// [`carries_locks`] by a table of mounts (`device folder kind options ...`, as in `/proc/mounts`).
fn carried(table: &str, full: &Path) -> bool {
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, folder) = (fields.next()?, fields.next()?);
        // Spaces and tabs in names are octal there.
        let folder = folder.replace("\\040", " ").replace("\\011", "\t");
        Some((folder, fields.next()?, fields.next()?))
    });
    let over = mounts.filter(|(folder, ..)| full.starts_with(folder));
    let Some((_, kind, options)) = over.max_by_key(|(folder, ..)| folder.len()) else {
        return true;
    };
    let has = |name: &str| options.split(',').any(|o| o == name);
    match kind {
        _ if kind.starts_with("nfs") => {
            !["nolock", "local_lock=all", "local_lock=flock"].iter().any(|o| has(o))
        }
        "lustre" => has("flock"),
        "cifs" | "smb3" | "9p" | "virtiofs" | "vboxsf" => false,
        _ => !kind.starts_with("fuse"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_trusted_where_they_travel() {
        let table = "/dev/a / ext4 rw 0 0\n\
                     srv:/x /data nfs4 rw,vers=4.2 0 0\n\
                     srv:/y /data/my\\040runs nfs rw,local_lock=all 0 0\n\
                     lus /lus lustre rw,localflock 0 0\n\
                     s3 /s3 fuse.s3fs rw 0 0\n";
        for (path, trusted) in [
            ("/tmp/run", true),
            ("/data/run", true),
            ("/data/my runs/a", false),
            ("/lus/a", false),
            ("/s3/a", false),
            ("/s3d/a", true),
        ] {
            assert_eq!(carried(table, Path::new(path)), trusted, "{path}");
        }
        assert!(carried("", Path::new("/a")), "nothing is known: the lock is all there is");
    }

    #[test]
    fn this_process_is_there() {
        assert!(is_alive(std::process::id()));
    }
}
