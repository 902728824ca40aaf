//! What the figures were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::bars::Plan;
use crate::site::Medium;

/// statfs's magic numbers of the file systems one is likely to meet.
const FILE_SYSTEMS: [(i64, &str); 5] = [
    (0x0102_1994, "tmpfs"),
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x794C_7630, "overlayfs"),
];

/// Facts in the order in which they are shown.
pub type Facts = Vec<(&'static str, String)>;

pub fn describe(plan: &Plan) -> anyhow::Result<Facts> {
    let mut facts = vec![
        ("processor", format!("{} x {}", cores(), processor())),
        ("memory", memory()),
        ("kernel", first_line("/proc/sys/kernel/osrelease")),
        ("rival", version(&plan.redis_server, "--version")?),
    ];
    if let Some(farkeep) = &plan.farkeep {
        facts.push(("farkeep", version(farkeep, "--version")?));
    }
    for medium in [Medium::Tmpfs, Medium::Disk] {
        let root = medium.root(plan);
        facts.push((medium.name(), format!("{} on {}", root.display(), file_system(root)?)));
    }
    facts.push((
        "method",
        format!(
            "{} rounds of {:.1} s in turn, {} connections, {} keys; medians",
            plan.rounds,
            plan.measure.as_secs_f64(),
            plan.connections,
            plan.keys
        ),
    ));
    Ok(facts)
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn processor() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn memory() -> String {
    field("/proc/meminfo", "MemTotal").unwrap_or_else(|| "unknown".into())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

fn version(program: &Path, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(program)
        .arg(flag)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

fn file_system(path: &Path) -> anyhow::Result<String> {
    let magic = rustix::fs::statfs(path).with_context(|| format!("statfs {}", path.display()))?.f_type;
    let known = FILE_SYSTEMS.iter().find(|(number, _)| *number == magic);
    Ok(known.map_or_else(|| format!("file system {magic:#x}"), |(_, name)| (*name).to_owned()))
}

/// Time that all cores together have spent working since boot, in anyone's name.
pub fn busy() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let ticks = busy_ticks_in(&stat).context("no line of all cores in /proc/stat")?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// user, nice, system, irq, softirq and steal of the first line; idle and iowait are no work, and guests are in user.
fn busy_ticks_in(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut sum = 0;
    for at in 0..8 {
        let ticks: u64 = fields.next()?.parse().ok()?;
        if !matches!(at, 3 | 4) {
            sum += ticks;
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_iowait_are_no_work() {
        let stat = "cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!(busy_ticks_in(stat), Some(63));
    }
}
