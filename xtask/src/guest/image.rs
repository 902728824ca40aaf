//! What a guest is made of: QEMU, a stock Debian kernel with its modules, and the RDMA and persistent memory tools.
//!
//! Nothing is installed. apt says which packages this machine lacks, they are downloaded with its own tools into a
//! directory under `target/guest` and unpacked there; the guest lays that directory over the host's root. A private copy of
//! apt's lists is fetched for it, so neither root nor a recent `apt-get update` is needed.
//!
//! The directory's name is a hash of the recipe. It is built beside its final name and renamed when it is whole, so a build
//! that was interrupted is never used; what older recipes left is removed. A lock admits one builder.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::nvdimm;
use crate::phase::target_dir;

/// What the guest needs besides its kernel. What the host has installed is used from there.
const PACKAGES: &[&str] = &[
    "bash",
    "busybox-static",
    "e2fsprogs",
    "ibverbs-providers",
    "ibverbs-utils",
    "iproute2",
    "kmod",
    "libibverbs1",
    "librdmacm1",
    "librpma0",
    "mount",
    "ndctl",
    "perftest",
    "qemu-system-x86",
    "rdma-core",
    "rdmacm-utils",
    "util-linux",
    "xz-utils",
];

/// The package that depends on the current kernel's package.
const KERNEL_PACKAGE: &str = "linux-image-amd64";

/// Nine tenths of the kernel's modules and all documentation are of no use here, and unpacking them takes time.
const NOT_UNPACKED: &[&str] = &[
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./boot/System.map*",
    "./lib/modules/*/kernel/sound",
    "./lib/modules/*/kernel/drivers/gpu",
    "./lib/modules/*/kernel/drivers/hid",
    "./lib/modules/*/kernel/drivers/iio",
    "./lib/modules/*/kernel/drivers/media",
    "./lib/modules/*/kernel/drivers/net/ethernet",
    "./lib/modules/*/kernel/drivers/net/wireless",
    "./lib/modules/*/kernel/drivers/scsi",
    "./lib/modules/*/kernel/drivers/staging",
    "./lib/modules/*/kernel/drivers/usb",
];

/// Raised when the way of unpacking changes, so that older caches are not used.
const RECIPE_REVISION: u32 = 2;

/// Overrides where the cache lies, so that several checkouts can share one.
pub const CACHE_VARIABLE: &str = "FARKEEP_GUEST_CACHE";

const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

const LIBRARY_DIRS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// An unpacked image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The packages this machine lacks, unpacked as if it were `/`.
    pub root: PathBuf,
    /// The kernel's release, as in `/lib/modules/RELEASE`.
    pub kernel_release: String,
    /// Where QEMU is.
    pub qemu: PathBuf,
    /// Locked as long as somebody may start a guest from here, so that nobody else takes the files away.
    _in_use: Option<Arc<File>>,
}

impl Image {
    /// The image of the current recipe, built if it is not there.
    ///
    /// # Errors
    /// One sentence that says what is missing.
    pub fn get() -> Result<Image, String> {
        if cfg!(not(target_arch = "x86_64")) {
            return Err("the guest is made for x86-64 hosts".into());
        }
        let cache = cache_dir();
        fs::create_dir_all(&cache).map_err(|error| format!("cannot make {}: {error}", cache.display()))?;
        let lock = open_lock(&cache.join("lock"), File::lock)?;
        let home = cache.join(recipe_key());
        if !home.is_dir() {
            build(&cache, &home)?;
        }
        let in_use = open_lock(&home.join("lock"), File::lock_shared)?;
        let root = home.join("root");
        let root = fs::canonicalize(&root).map_err(|error| format!("{}: {error}", root.display()))?;
        let image = Image { _in_use: Some(Arc::new(in_use)), ..Image::open(root)? };
        let image = nvdimm::provide(image);
        drop(lock);
        image
    }

    fn open(root: PathBuf) -> Result<Image, String> {
        let modules = root.join("lib/modules");
        let kernel_release = fs::read_dir(&modules)
            .ok()
            .and_then(|mut entries| entries.next()?.ok())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .ok_or_else(|| format!("no kernel in {}: remove that cache", modules.display()))?;
        let qemu = find_program(&root, "qemu-system-x86_64")
            .ok_or_else(|| format!("no qemu-system-x86_64 in {}: remove that cache", root.display()))?;
        Ok(Image { root, kernel_release, qemu, _in_use: None })
    }

    /// The directory that all of it is in.
    pub fn home(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    /// The kernel QEMU starts, as it is after its decompression.
    pub fn kernel(&self) -> PathBuf {
        self.root.join("boot/vmlinux")
    }

    fn compressed_kernel(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.kernel_release))
    }

    /// Where the kernel's modules are.
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.kernel_release)
    }

    /// The static busybox of the initial RAM disk.
    pub fn busybox(&self) -> Result<PathBuf, String> {
        find_program(&self.root, "busybox").ok_or_else(|| "no busybox: remove the cache".into())
    }

    /// The environment in which unpacked programs find their libraries and data on the host.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_LIBRARY_PATH", library_path(&self.root)),
            ("QEMU_MODULE_DIR", self.root.join("usr/lib/x86_64-linux-gnu/qemu").into()),
        ]
    }
}

/// Where everything of the guest is kept.
pub fn cache_dir() -> PathBuf {
    std::env::var_os(CACHE_VARIABLE).map_or_else(|| target_dir().join("guest"), PathBuf::from)
}

/// A lock file, made if it is not there. The lock ends with the returned file.
fn open_lock(path: &Path, lock: impl FnOnce(&File) -> std::io::Result<()>) -> Result<File, String> {
    File::create(path)
        .and_then(|file| lock(&file).map(|()| file))
        .map_err(|error| format!("cannot lock {}: {error}", path.display()))
}

fn recipe_key() -> String {
    let debian = fs::read_to_string("/etc/debian_version").unwrap_or_default();
    let recipe = format!("{RECIPE_REVISION} {PACKAGES:?} {KERNEL_PACKAGE} {NOT_UNPACKED:?} {debian}");
    format!("image-{:016x}", fnv1a(&recipe))
}

/// A name for a recipe: std's hasher promises nothing from one toolchain to the next.
pub fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn build(cache: &Path, home: &Path) -> Result<(), String> {
    for program in ["apt-get", "dpkg-deb"] {
        if find_program(Path::new("/"), program).is_none() {
            return Err(format!("the guest is built from Debian packages, and {program} is missing here"));
        }
    }
    remove_older_images(cache)?;
    let partial = cache.join("partial");
    let root = partial.join("root");
    let apt = Apt { dir: partial.join("apt") };
    let made = |error: std::io::Error| format!("cannot write to {}: {error}", partial.display());
    for dir in ["debs", "lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.dir.join(dir)).map_err(made)?;
    }
    lay_out(&root).map_err(made)?;

    eprintln!("guest: fetching the packages this machine lacks (once, about 110 MB)");
    let complaint = apt.update();
    // A list that could not be fetched shows as a package that is not known; the reason is what is to be told.
    let mut names = apt.lacking(PACKAGES).map_err(|why| complaint.unwrap_or(why))?;
    names.push(apt.kernel_package()?);
    apt.download(&names)?;
    eprintln!("guest: unpacking {} packages", names.len());
    for name in fs::read_dir(apt.dir.join("debs")).map_err(made)? {
        unpack(&name.map_err(made)?.path(), &root)?;
    }
    let image = Image::open(root.clone())?;
    depmod(&image)?;
    uncompress_kernel(&image)?;
    fs::remove_dir_all(&apt.dir).map_err(made)?;
    fs::rename(&partial, home).map_err(|error| format!("cannot rename to {}: {error}", home.display()))
}

/// Those of other recipes that nobody uses, and what an interrupted build left.
fn remove_older_images(cache: &Path) -> Result<(), String> {
    let entries = fs::read_dir(cache).map_err(|error| format!("cannot read {}: {error}", cache.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let is_image = name.to_string_lossy().starts_with("image-");
        let lock = File::create(path.join("lock"));
        let in_use = is_image && lock.is_ok_and(|lock| lock.try_lock().is_err());
        if name == "partial" || (is_image && !in_use) {
            fs::remove_dir_all(&path)
                .map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// The directories that are links into `/usr` on a merged system must be links here too, or they would hide the host's.
fn lay_out(root: &Path) -> std::io::Result<()> {
    fs::create_dir_all(root)?;
    for name in ["bin", "sbin", "lib", "lib64"] {
        if Path::new("/").join(name).is_symlink() {
            fs::create_dir_all(root.join("usr").join(name))?;
            std::os::unix::fs::symlink(Path::new("usr").join(name), root.join(name))?;
        }
    }
    Ok(())
}

fn unpack(package: &Path, root: &Path) -> Result<(), String> {
    let failed = |why: String| format!("cannot unpack {}: {why}", package.display());
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let pipe = archive.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let mut tar = Command::new("tar");
    tar.args(["-x", "--keep-directory-symlink", "--no-same-owner", "--wildcards"]);
    tar.args(NOT_UNPACKED.iter().map(|pattern| format!("--exclude={pattern}")));
    let unpacked = tar.arg("-C").arg(root).stdin(pipe).status();
    let archived = archive.wait();
    match (unpacked, archived) {
        (Ok(unpacked), Ok(archived)) if unpacked.success() && archived.success() => Ok(()),
        (unpacked, archived) => Err(failed(format!("tar: {unpacked:?}, dpkg-deb: {archived:?}"))),
    }
}

/// Debian's tools with lists and archives of their own.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        for (option, value) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")] {
            let mut setting = OsString::from(format!("{option}="));
            setting.push(self.dir.join(value));
            command.arg("-o").arg(setting);
        }
        // No other apt works on these directories, and the sandbox's user may not write to them.
        command.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]);
        command
    }

    /// What is wrong with the mirrors, if something is. Not all of them need to be there.
    fn update(&self) -> Option<String> {
        let output = self.command("apt-get").args(["-qq", "update"]).output().ok()?;
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        let first = complaints.lines().find(|line| line.starts_with("E:") || line.starts_with("W:"))?;
        Some(unavailable(first))
    }

    /// Those of `wanted`, and of what they depend on, that are not installed. What is installed in an older version than
    /// the mirror's stays as it is.
    fn lacking(&self, wanted: &[&str]) -> Result<Vec<String>, String> {
        let output = self.output(
            self.command("apt-get").args(["-s", "install", "--no-install-recommends"]).args(wanted),
        )?;
        Ok(lacking_in(&output))
    }

    fn kernel_package(&self) -> Result<String, String> {
        let output = self.output(self.command("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
        kernel_in(&output).ok_or_else(|| format!("{KERNEL_PACKAGE} depends on no kernel package"))
    }

    fn download(&self, names: &[String]) -> Result<(), String> {
        self.output(
            self.command("apt-get").args(["-qq", "download"]).args(names).current_dir(self.dir.join("debs")),
        )
        .map(|_| ())
    }

    /// What a command prints, or the first error that it names.
    fn output(&self, command: &mut Command) -> Result<String, String> {
        let output = command.output().map_err(|error| format!("cannot start apt: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let first = errors.lines().find(|line| line.starts_with("E:")).unwrap_or("apt failed");
        Err(unavailable(first))
    }
}

fn unavailable(why: &str) -> String {
    format!("the guest's packages cannot be had from the Debian mirror: {why}")
}

/// `Inst NAME (VERSION ...)` is a package that would be new, `Inst NAME [OLD] (VERSION ...)` one that would be upgraded.
fn lacking_in(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_once(' '))
        .filter(|(_, version)| version.starts_with('('))
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn kernel_in(depends: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

/// What the kernel's package would do when it is installed. `depmod` is a name of `kmod`, and a link to it that leads
/// to the host's.
fn depmod(image: &Image) -> Result<(), String> {
    let kmod = find_program(&image.root, "kmod").ok_or("no kmod among the packages")?;
    let output = Command::new(kmod)
        .arg0("depmod")
        .arg("-b")
        .arg(&image.root)
        .arg(&image.kernel_release)
        .env("LD_LIBRARY_PATH", library_path(&image.root))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start kmod: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("depmod failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// A kernel that decompresses itself under emulation takes longer for that than for the rest of its start. QEMU can start
/// the kernel proper, if it gets it as the ELF file that is within.
fn uncompress_kernel(image: &Image) -> Result<(), String> {
    let compressed = image.compressed_kernel();
    let failed = |why: String| format!("cannot uncompress {}: {why}", compressed.display());
    let bytes = fs::read(&compressed).map_err(|error| failed(error.to_string()))?;
    let payload = kernel_payload(&bytes).ok_or_else(|| failed("no x86 kernel with a payload".into()))?;
    if !payload.starts_with(XZ_MAGIC) {
        return Err(failed("its payload is not xz".into()));
    }
    let xz = find_program(&image.root, "xz").ok_or("no xz among the packages")?;
    let target = File::create(image.kernel()).map_err(|error| failed(error.to_string()))?;
    let mut child = Command::new(xz)
        // What follows the stream is its length.
        .args(["-dc", "--single-stream"])
        .envs(image.environment())
        .stdin(Stdio::piped())
        .stdout(target)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    // xz stops reading at the stream's end; its exit code says whether all was well.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(payload));
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        other => Err(failed(format!("xz: {other:?}"))),
    }
}

/// The compressed ELF file in a bzImage, by its boot protocol's header (2.08 and later).
fn kernel_payload(kernel: &[u8]) -> Option<&[u8]> {
    let field = |at: usize| Some(u32::from_le_bytes(*kernel.get(at..)?.first_chunk()?) as usize);
    if kernel.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = usize::from(*kernel.get(0x1f1)?);
    let start = (setup_sectors + 1) * 512 + field(0x248)?;
    kernel.get(start..start + field(0x24c)?)
}

fn library_path(root: &Path) -> OsString {
    std::env::join_paths(LIBRARY_DIRS.map(|dir| root.join(dir))).unwrap_or_default()
}

/// A program in the image or on the host.
fn find_program(root: &Path, name: &str) -> Option<PathBuf> {
    let places = ["usr/bin", "usr/sbin", "bin", "sbin"];
    [root, Path::new("/")]
        .iter()
        .flat_map(|base| places.map(|place| base.join(place).join(name)))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_that_are_not_installed_are_lacking() {
        let simulation = "\
Reading package lists...
Inst udev [252.38] (252.39 Debian:12.15/oldstable [amd64]) []
Inst libdaxctl1 (76.1-1 Debian:12.15/oldstable [amd64])
Inst ndctl (76.1-1 Debian:12.15/oldstable [amd64]) [kmod:amd64 ]
Conf ndctl (76.1-1 Debian:12.15/oldstable [amd64])
";
        assert_eq!(lacking_in(simulation), ["libdaxctl1", "ndctl"]);
    }

    #[test]
    fn a_kernels_payload_is_where_its_header_says() {
        let mut kernel = vec![0; 0x1000];
        kernel[0x1f1] = 3;
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x248] = 16;
        kernel[0x24c] = 5;
        kernel[4 * 512 + 16..][..6].copy_from_slice(b"hello!");
        assert_eq!(kernel_payload(&kernel), Some(b"hello".as_slice()));
        assert_eq!(kernel_payload(&kernel[..4 * 512 + 20]), None);
        assert_eq!(kernel_payload(b"\x7fELF"), None);
    }

    #[test]
    fn the_kernel_is_the_package_that_the_metapackage_depends_on() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(kernel_in(depends).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(kernel_in("linux-image-amd64\n"), None);
    }
}
