//! Circles of modules: modules beside one another, in one parent, that need each other, so that none of them can be read
//! or changed alone.
//!
//! An arrow runs from a module to another when a file of the first, or within it, names something of the second, in a `use`
//! or in a path; it leads to where the name is defined, also if a parent hands it on with `pub use`. Tests do not count. A
//! module and what is within it are one unit: a part may use what its parent defines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{
    Attribute, Item, ItemMod, ItemUse, Meta, UseTree, Visibility,
    visit::{self, Visit},
};

/// A module of a crate by its path, such as `["server", "tcp"]`; the root is empty.
type Module = Vec<String>;

/// The modules that one module needs, each with a name that it takes from there.
type Needs = BTreeMap<String, String>;

/// A circle.
pub(crate) struct Circle {
    /// Its modules, sorted.
    pub(crate) modules: Vec<String>,
    /// What ties it: an arrow between two of them in each line.
    pub(crate) arrows: Vec<String>,
}

/// The circles of the crate with this folder of sources.
pub(crate) fn of_crate(sources: &Path) -> Vec<Circle> {
    let mut files = BTreeMap::new();
    collect(sources, &mut Vec::new(), &mut files);
    let mut groups: BTreeMap<Module, BTreeMap<String, Needs>> = BTreeMap::new();
    for (module, file) in &files {
        for name in &file.named {
            let Some(owner) = owner(name, &files, 8) else { continue };
            let shared = module.iter().zip(&owner).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (module.get(shared), owner.get(shared)) {
                let group = groups.entry(module[..shared].to_vec()).or_default();
                group.entry(from.clone()).or_default().insert(to.clone(), name.join("::"));
            }
        }
    }
    let mut circles = Vec::new();
    for (parent, arrows) in groups {
        let mut placed = BTreeSet::new();
        for module in arrows.keys() {
            let there = reached(module, &arrows);
            let circle: Vec<_> =
                there.iter().filter(|it| reached(it, &arrows).contains(module)).cloned().collect();
            if circle.len() > 1 && placed.insert(circle.clone()) {
                let path = |name: &String| [parent.clone(), vec![name.clone()]].concat().join("::");
                let tie = |from: &String| -> Vec<String> {
                    let needs = arrows[from].iter().filter(|(to, _)| circle.contains(to));
                    needs.map(|(to, name)| format!("{from} -> {to}: {name}")).collect()
                };
                let arrows = circle.iter().flat_map(tie).collect();
                circles.push(Circle { modules: circle.iter().map(path).collect(), arrows });
            }
        }
    }
    circles.sort_by(|a, b| a.modules.cmp(&b.modules));
    circles
}

fn reached(from: &str, arrows: &BTreeMap<String, Needs>) -> BTreeSet<String> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(module) = open.pop() {
        for next in arrows.get(&module).into_iter().flat_map(Needs::keys) {
            if reached.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    reached
}

/// Every file below a folder, by its module.
fn collect(folder: &Path, at: &mut Module, files: &mut BTreeMap<Module, Names>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_root = at.is_empty() && matches!(stem.as_str(), "lib" | "main");
        at.push(stem);
        if path.is_dir() {
            collect(&path, at, files);
        } else if path.extension().is_some_and(|it| it == "rs") && !at.iter().any(|it| is_for_tests(it)) {
            let module = if is_root { Module::new() } else { at.clone() };
            let file = syn::parse_file(&fs::read_to_string(&path).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let names = files.entry(module.clone()).or_insert_with(|| Names { module, ..Names::default() });
            names.visit_file(&file);
        }
        at.pop();
    }
}

fn is_for_tests(module: &str) -> bool {
    module.contains("tests") || matches!(module, "testing" | "fuzzing")
}

/// The module that defines what a path names, following what modules hand on; `steps` bounds how often.
fn owner(name: &[String], files: &BTreeMap<Module, Names>, steps: u8) -> Option<Module> {
    let steps = steps.checked_sub(1)?;
    let end = (0..=name.len()).rev().find(|end| files.contains_key(&name[..*end]))?;
    let (module, rest) = name.split_at(end);
    let (file, Some((item, rest))) = (&files[module], rest.split_first()) else {
        return Some(module.to_vec());
    };
    if file.defined.contains(item) {
        return Some(module.to_vec());
    }
    if let Some(target) = file.handed_on.get(item) {
        return owner(&[target.clone(), rest.to_vec()].concat(), files, steps);
    }
    file.handed_on_whole.iter().find_map(|target| {
        let inner = [target.clone(), vec![item.clone()]].concat();
        files.get(target)?.defined.contains(item).then(|| owner(&inner, files, steps))?
    })
}

/// What a file defines and names. Paths are from the crate's root.
#[derive(Default)]
struct Names {
    module: Module,
    /// How many modules of this file surround what is visited.
    inner: usize,
    named: BTreeSet<Module>,
    defined: BTreeSet<String>,
    /// What `pub use` makes a name of this module.
    handed_on: BTreeMap<String, Module>,
    /// The modules of which `pub use …::*` hands everything on.
    handed_on_whole: BTreeSet<Module>,
}

impl Names {
    /// A path as written, with its first part resolved. What belongs to another crate, or is only a name of this file,
    /// is `None`.
    fn resolve(&self, written: &[String]) -> Option<Module> {
        let (first, rest) = written.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" if self.inner == 0 => self.module.clone(),
            "super" if self.inner > 0 => return None,
            "super" => {
                let mut base = self.module.clone();
                base.pop();
                base
            }
            _ => return None,
        };
        let mut rest = rest;
        while rest.first().is_some_and(|it| it == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// A path from the crate's root. One that begins with a plain name may lead into a child of this file's module.
    fn path_from_root(&self, written: &[String]) -> Option<Module> {
        let child = || (self.inner == 0).then(|| [self.module.clone(), written.to_vec()].concat());
        self.resolve(written).or_else(child)
    }

    fn note_tree(&mut self, above: &mut Vec<String>, tree: &UseTree, hands_on: bool) {
        let (end, new_name) = match tree {
            UseTree::Path(path) => {
                above.push(path.ident.to_string());
                self.note_tree(above, &path.tree, hands_on);
                above.pop();
                return;
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.note_tree(above, tree, hands_on));
            }
            UseTree::Name(name) => (Some(name.ident.to_string()), name.ident.to_string()),
            UseTree::Rename(name) => (Some(name.ident.to_string()), name.rename.to_string()),
            UseTree::Glob(_) => (None, String::new()),
        };
        let mut written = above.clone();
        written.extend(end.clone().filter(|it| it != "self"));
        let Some(path) = self.path_from_root(&written) else { return };
        if hands_on && end.is_none() {
            self.handed_on_whole.insert(path.clone());
        } else if hands_on {
            self.handed_on.insert(new_name, path.clone());
        }
        self.named.insert(path);
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string().contains("test"),
        _ => false,
    })
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = match item {
            Item::Mod(it) => (&it.attrs, it.content.is_some().then_some(&it.ident)),
            Item::Use(it) => (&it.attrs, None),
            Item::Impl(it) => (&it.attrs, None),
            Item::Fn(it) => (&it.attrs, Some(&it.sig.ident)),
            Item::Struct(it) => (&it.attrs, Some(&it.ident)),
            Item::Enum(it) => (&it.attrs, Some(&it.ident)),
            Item::Trait(it) => (&it.attrs, Some(&it.ident)),
            Item::Type(it) => (&it.attrs, Some(&it.ident)),
            Item::Const(it) => (&it.attrs, Some(&it.ident)),
            Item::Static(it) => (&it.attrs, Some(&it.ident)),
            Item::Macro(it) => (&it.attrs, it.ident.as_ref()),
            _ => return visit::visit_item(self, item),
        };
        if is_test(attributes) {
            return;
        }
        self.defined.extend(name.filter(|_| self.inner == 0).map(ToString::to_string));
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if item.content.is_some() {
            self.inner += 1;
            visit::visit_item_mod(self, item);
            self.inner -= 1;
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let hands_on = self.inner == 0 && !matches!(item.vis, Visibility::Inherited);
        self.note_tree(&mut Vec::new(), &item.tree, hands_on);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let written: Vec<_> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        if written.len() > 1 {
            self.named.extend(self.path_from_root(&written));
        }
        visit::visit_path(self, path);
    }
}
