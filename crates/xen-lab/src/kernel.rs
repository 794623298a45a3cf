//! The kernel and its modules, as they come out of a package.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};

use crate::{packages::Packages, root::Root};

/// How a frame of zstd begins.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ELF_MAGIC: [u8; 4] = [0x7f, b'E', b'L', b'F'];

/// The ELF file within the kernel's image. Xen and xl boot that too, and unpacking it here is cheaper than under emulation.
pub(crate) fn elf_kernel(image: &[u8]) -> Result<Vec<u8>> {
    let starts = image.windows(ZSTD_MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == ZSTD_MAGIC);
    for (start, _) in starts {
        // What follows the frame is not of it, which is an error at the end.
        let kernel = filter(Command::new("zstd").args(["-dcq"]), &image[start..])?;
        if kernel.starts_with(&ELF_MAGIC) {
            return Ok(kernel);
        }
    }
    anyhow::bail!("the kernel is not packed as zstd")
}

/// What a filter makes of some bytes, whether or not it likes their end.
fn filter(command: &mut Command, bytes: &[u8]) -> Result<Vec<u8>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut input = child.stdin.take().expect("it has a pipe");
    let output = thread::scope(|scope| {
        // It may have enough before it has all.
        scope.spawn(move || drop(input.write_all(bytes)));
        child.wait_with_output()
    });
    Ok(output.with_context(|| format!("{command:?}"))?.stdout)
}

/// Modules of the kernel, with those that they need.
pub(crate) struct Modules<'a> {
    packages: &'a Packages,
    /// Where each is, by its name with underscores.
    files: BTreeMap<String, PathBuf>,
    taken: BTreeMap<String, Module>,
}

struct Module {
    contents: Vec<u8>,
    needs: Vec<String>,
    aliases: Vec<String>,
}

impl<'a> Modules<'a> {
    pub(crate) fn new(packages: &'a Packages) -> Result<Modules<'a>> {
        let mut files = BTreeMap::new();
        let mut directories = vec![packages.find("lib/modules")?.join(packages.kernel_version()).join("kernel")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        Ok(Modules { packages, files, taken: BTreeMap::new() })
    }

    /// Takes a module along. One that there is no file of is built in.
    pub(crate) fn take(&mut self, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        let Some(file) = self.files.get(&name).filter(|_| !self.taken.contains_key(&name)) else { return Ok(()) };
        let bytes = fs::read(file).with_context(|| file.display().to_string())?;
        let contents = match file.extension().is_some_and(|extension| extension == "xz") {
            true => filter(Command::new("xz").arg("-dc"), &bytes)?,
            false => bytes,
        };
        ensure!(contents.starts_with(&ELF_MAGIC), "{} cannot be unpacked: is xz there?", file.display());
        let needs: Vec<String> = facts(&contents, "depends")
            .flat_map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let needs: Vec<String> = needs.into_iter().filter(|name| !name.is_empty()).collect();
        let aliases = facts(&contents, "alias").map(str::to_owned).collect();
        self.taken.insert(name, Module { contents, needs: needs.clone(), aliases });
        needs.iter().try_for_each(|need| self.take(need))
    }

    /// Puts what was taken where `modprobe` looks for it.
    pub(crate) fn put(&self, root: &mut Root) {
        let directory = format!("lib/modules/{}", self.packages.kernel_version());
        let (mut needs, mut aliases) = (String::new(), String::new());
        for (name, module) in &self.taken {
            root.file(&format!("{directory}/{name}.ko"), 0o644, module.contents.clone());
            let all: Vec<String> = self.all_needs(name).into_iter().map(|need| format!("{need}.ko")).collect();
            needs += &format!("{name}.ko: {}\n", all.join(" "));
            aliases.extend(module.aliases.iter().map(|alias| format!("alias {alias} {name}\n")));
        }
        root.file(&format!("{directory}/modules.dep"), 0o644, needs.into_bytes());
        root.file(&format!("{directory}/modules.alias"), 0o644, aliases.into_bytes());
        root.file(&format!("{directory}/modules.symbols"), 0o644, Vec::new());
    }

    /// What must be loaded for a module, the last first.
    fn all_needs(&self, name: &str) -> Vec<String> {
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        let mut next: Vec<String> = self.taken[name].needs.clone();
        while !next.is_empty() {
            let name = next.remove(0).replace('-', "_");
            if seen.insert(name.clone())
                && let Some(module) = self.taken.get(&name)
            {
                all.push(name);
                next.extend(module.needs.clone());
            }
        }
        all
    }
}

/// The name of a module, from that of its file.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

/// What a module says of itself: `key=value` between two zeroes.
fn facts<'a>(contents: &'a [u8], key: &'a str) -> impl Iterator<Item = &'a str> {
    let words = contents.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
    words.filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_its_name_with_underscores() {
        assert_eq!(module_name(Path::new("/k/xen-blkfront.ko.xz")).as_deref(), Some("xen_blkfront"));
        assert_eq!(module_name(Path::new("/k/loop.ko")).as_deref(), Some("loop"));
        assert_eq!(module_name(Path::new("/k/modules.order")), None);
    }

    #[test]
    fn facts_stand_between_zeroes() {
        let contents = b"junk\0depends=a,b\0alias=x\0alias=y\0";
        assert_eq!(facts(contents, "depends").collect::<Vec<_>>(), ["a,b"]);
        assert_eq!(facts(contents, "alias").collect::<Vec<_>>(), ["x", "y"]);
    }
}
