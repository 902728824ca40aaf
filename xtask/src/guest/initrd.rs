//! The guest's initial RAM disk: a static busybox, the modules of the guest's devices, and two scripts. It is written for every boot, with that boot's settings in it; a few MiB are quicker written than kept fresh.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::image::Image;

/// What the guest's devices need. All of it is on the disk, for looking for a module through 9p takes longer than
/// loading it. What a command needs beyond it, `modprobe` finds in the host's file system.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_net",
    // Without it `rdma link add` fails with "No such file or directory".
    "crc32_generic",
    "rdma_rxe",
    "rdma_ucm",
    "ib_umad",
    "crc32c_generic",
    "ext4",
    "nfit",
    "nd_pmem",
    "dax_pmem",
    "device_dax",
];

const INIT: &str = include_str!("init.sh");
/// What makes a machine ready, formatting included.
pub const PREPARE: &str = include_str!("prepare.sh");

/// The bytes of the disk. `settings` become shell variables of both scripts.
pub fn build(image: &Image, settings: &[(&str, String)]) -> Result<Vec<u8>, String> {
    let read =
        |path: &Path| fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let modules = image.modules();
    let depends = String::from_utf8_lossy(&read(&modules.join("modules.dep"))?).into_owned();
    let builtin = String::from_utf8_lossy(&read(&modules.join("modules.builtin"))?).into_owned();
    let mut disk = Cpio::default();
    for dir in ["bin", "sbin", "modules", "proc", "sys", "dev", "host", "host_tmp", "image", "layer", "new"] {
        disk.directory(dir);
    }
    disk.program("bin/busybox", &read(&image.busybox()?)?);
    disk.program("init", INIT.as_bytes());
    disk.program("prepare", PREPARE.as_bytes());
    // What the kernel starts when it wants a module by itself: it sees this disk, not the root that is made later.
    disk.program(
        "sbin/modprobe",
        b"#!/bin/busybox sh\nexec /bin/busybox chroot /new /sbin/modprobe \"$@\"\n",
    );
    let mut order = String::new();
    for path in load_order(&depends, &builtin, MODULES)? {
        let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
        disk.program(&format!("modules/{name}"), &read(&modules.join(&path))?);
        order.push_str(&format!("/modules/{name}\n"));
    }
    disk.program("modules/order", order.as_bytes());
    let settings: String =
        settings.iter().map(|(name, value)| format!("{name}={}\n", quote(value))).collect();
    disk.program("settings", settings.as_bytes());
    Ok(disk.finish())
}

/// One word of the shell, whatever is in it.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The files of `wanted` and of what they depend on, dependencies first; nothing that is built in. The listings are those
/// of `depmod`: `a/b.ko: a/c.ko a/d.ko`, in which later dependencies are to be loaded first.
fn load_order(depends: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>, String> {
    let module = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split('.').next().unwrap_or(file).replace('-', "_")
    };
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for name in wanted {
        let line =
            depends.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| module(path) == *name);
        match line {
            Some((path, needs)) => {
                for file in needs.split_whitespace().rev().chain([path]) {
                    if seen.insert(file.to_owned()) {
                        order.push(file.to_owned());
                    }
                }
            }
            None if builtin.lines().any(|path| module(path) == *name) => {}
            None => return Err(format!("the kernel has no module {name}")),
        }
    }
    Ok(order)
}

/// A "newc" archive, the one format the kernel unpacks.
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn directory(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    fn program(&mut self, path: &str, content: &[u8]) {
        self.entry(path, 0o100_755, content);
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, length, device (two), special device (two), name's length, checksum
        let fields =
            [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_comes_out_of_a_shell_as_it_went_in() {
        for word in ["", "plain", "two words", "it's", "'", "$HOME `id` \"x\" \\", "line\nbreak", "*"] {
            let script = format!("printf %s {}", quote(word));
            let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn modules_are_loaded_after_what_they_need_and_once() {
        let depends = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs.ko\n\
                       kernel/net/9p/9pnet.ko:\n\
                       kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko kernel/virtio/virtio-ring.ko kernel/virtio/virtio.ko\n";
        let builtin = "kernel/drivers/virtio/virtio_pci.ko\n";
        let order = load_order(depends, builtin, &["virtio_pci", "9pnet_virtio", "9p"]).unwrap();
        assert_eq!(
            order,
            [
                "kernel/virtio/virtio.ko",
                "kernel/virtio/virtio-ring.ko",
                "kernel/net/9p/9pnet.ko",
                "kernel/net/9p/9pnet_virtio.ko",
                "kernel/fs/netfs.ko",
                "kernel/fs/9p/9p.ko",
            ]
        );
        assert!(load_order(depends, builtin, &["rdma_rxe"]).unwrap_err().contains("rdma_rxe"));
    }

    #[test]
    fn an_archive_is_made_of_aligned_entries() {
        let mut disk = Cpio::default();
        disk.directory("bin");
        disk.program("bin/x", b"12345");
        let bytes = disk.finish();
        assert_eq!(bytes.len() % 4, 0);
        // The header and "bin\0" fill 114 bytes, so the second entry begins at 116.
        assert_eq!(&bytes[116..122], b"070701");
        assert_eq!(&bytes[116 + 110..116 + 116], b"bin/x\0");
        assert_eq!(&bytes[116 + 116..116 + 121], b"12345");
        assert!(bytes.windows(11).any(|window| window == b"TRAILER!!!\0"));
    }
}
