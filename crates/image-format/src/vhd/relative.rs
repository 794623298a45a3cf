//! The path from a child to its parent that goes into the locators, so that a directory of images can be moved.

use std::path::{Component, Path};

use block_core::{Error, ErrorKind, Result};

/// The path that leads from the directory of `child` to `parent`, both canonical: `./` or as many `../` as it takes,
/// then the rest.
pub fn relative_path(child: &Path, parent: &Path) -> Result<String> {
    let from = components(child.parent().unwrap_or(child))?;
    let to = components(parent)?;
    if to.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "the root directory is no parent image"));
    }
    // The parent's own name is always spelled out, even if a directory of the child has it.
    let shared = from.iter().zip(&to[..to.len() - 1]).take_while(|(a, b)| a == b).count();
    let climb = match from.len() - shared {
        0 => "./".to_owned(),
        levels => "../".repeat(levels),
    };
    Ok(climb + &to[shared..].join("/"))
}

fn components(path: &Path) -> Result<Vec<&str>> {
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err(Error::new(ErrorKind::Invalid, format!("{} is not canonical", path.display())));
    }
    components
        .map(|component| match component {
            Component::Normal(name) => {
                name.to_str().ok_or_else(|| Error::new(ErrorKind::Unsupported, "a path that is not UTF-8"))
            }
            _ => Err(Error::new(ErrorKind::Invalid, format!("{} is not canonical", path.display()))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn relative(child: &str, parent: &str) -> String {
        relative_path(Path::new(child), Path::new(parent)).unwrap()
    }

    #[test]
    fn neighbours_cousins_and_strangers() {
        assert_eq!(relative("/d/b.vhd", "/d/a.vhd"), "./a.vhd");
        assert_eq!(relative("/d/b.vhd", "/d/e/a.vhd"), "./e/a.vhd");
        assert_eq!(relative("/v/d2/b.vhd", "/v/d1/p.vhd"), "../d1/p.vhd");
        assert_eq!(relative("/a/b/c.vhd", "/p.vhd"), "../../p.vhd");
        assert_eq!(relative("/b.vhd", "/a.vhd"), "./a.vhd");
        assert_eq!(relative("/x/y/b.vhd", "/x/y"), "../y");
    }

    #[test]
    fn paths_that_are_not_canonical_are_refused() {
        for (child, parent) in [("b.vhd", "/a.vhd"), ("/b.vhd", "a.vhd"), ("/d/../b.vhd", "/a.vhd"), ("/b.vhd", "/")] {
            assert!(relative_path(Path::new(child), Path::new(parent)).is_err(), "{child} {parent}");
        }
    }

    /// Walks like a shell would.
    fn walk(directory: &str, relative: &str) -> String {
        let mut place: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
        for part in relative.split('/') {
            match part {
                "." => {}
                ".." => drop(place.pop()),
                name => place.push(name),
            }
        }
        format!("/{}", place.join("/"))
    }

    proptest! {
        #[test]
        fn walking_it_from_the_childs_directory_leads_to_the_parent(
            directory in "(/[ab]{1,2}){0,4}", parent in "(/[ab]{1,2}){1,5}",
        ) {
            let path = relative(&format!("{directory}/child.vhd"), &parent);
            prop_assert_eq!(walk(&directory, &path), parent);
        }
    }
}
