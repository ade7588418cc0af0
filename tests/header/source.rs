//! Owns the reading of src/capi/ by a parser of Rust: each call with its parameters and the parts of its document, structs
//! with their members, constants. Must never know how a page looks.

use std::fs;
use std::path::Path;
use syn::{Attribute, Expr, Fields, FnArg, Item, Lit, Meta, Pat, ReturnType, Type};

/// What an errno stands for.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Such as `-EINVAL`; where it is missing, the text names what it can be.
    pub(crate) errno: Option<String>,
    pub(crate) text: String,
}

/// The parts of a call's document.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// The first sentence, without its dot.
    pub(crate) brief: String,
    pub(crate) paragraphs: Vec<String>,
    pub(crate) returns: Option<String>,
    pub(crate) ownership: Option<String>,
    /// Members of `checkmap_opts`, and flags without their prefix.
    pub(crate) options: Vec<String>,
    pub(crate) failures: Vec<Failure>,
    /// Calls whose failures are those of this call too, and the errnos of these that are not.
    also_as: Vec<(String, Vec<String>)>,
}

/// A type of C.
#[derive(Clone, Debug)]
pub(crate) enum CType {
    Named(String),
    Pointer { is_const: bool, to: Box<CType> },
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) document: Document,
    pub(crate) parameters: Vec<(String, CType)>,
    /// `None` is void.
    pub(crate) returned: Option<CType>,
}

#[derive(Debug)]
pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) text: Vec<String>,
    /// Name, type and document.
    pub(crate) members: Vec<(String, CType, Vec<String>)>,
    /// What stands behind it is the library's own.
    pub(crate) is_handle: bool,
}

/// All that the header declares, in the order of the sources.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) calls: Vec<Call>,
    pub(crate) structs: Vec<Struct>,
    /// Name and document.
    pub(crate) constants: Vec<(String, String)>,
    /// Types of functions: name and document.
    pub(crate) callbacks: Vec<(String, Vec<String>)>,
}

impl CType {
    fn of(rust: &Type) -> Self {
        match rust {
            Type::Ptr(pointer) => {
                Self::Pointer { is_const: pointer.const_token.is_some(), to: Box::new(Self::of(&pointer.elem)) }
            }
            Type::Array(array) => Self::of(&array.elem),
            Type::Path(path) => {
                let name = path.path.segments.last().expect("a type has a name").ident.to_string();
                let c = match name.as_str() {
                    "u8" => "uint8_t",
                    "u32" => "uint32_t",
                    "u64" => "uint64_t",
                    "i64" => "int64_t",
                    "usize" => "size_t",
                    "c_int" => "int",
                    "c_char" => "char",
                    "c_void" => "void",
                    ours if ours.starts_with("checkmap_") => ours,
                    other => panic!("{other}: which type of C is that?"),
                };
                Self::Named(c.into())
            }
            _ => panic!("a type that C does not have"),
        }
    }

    /// The struct that stands behind any number of pointers.
    pub(crate) fn innermost(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Pointer { to, .. } => to.innermost(),
        }
    }

    pub(crate) fn is_pointer(&self) -> bool {
        matches!(self, Self::Pointer { .. })
    }

    /// A declaration of `declared`, which is a name or what a pointer makes of one.
    pub(crate) fn declare(&self, declared: &str) -> String {
        match self {
            Self::Named(name) if name.starts_with("checkmap_") && !name.ends_with("_fn") => {
                format!("struct {name} {declared}")
            }
            Self::Named(name) => format!("{name} {declared}"),
            Self::Pointer { is_const, to } if to.is_pointer() => {
                to.declare(&format!("{}*{declared}", if *is_const { "const " } else { "" }))
            }
            Self::Pointer { is_const, to } => {
                format!("{}{}", if *is_const { "const " } else { "" }, to.declare(&format!("*{declared}")))
            }
        }
    }
}

/// The paragraphs of a document; the points of a list are lines of their paragraph.
fn paragraphs(attributes: &[Attribute]) -> Vec<String> {
    let mut all = vec![String::new()];
    for attribute in attributes {
        let Meta::NameValue(meta) = &attribute.meta else { continue };
        let Expr::Lit(literal) = &meta.value else { continue };
        let (true, Lit::Str(line)) = (meta.path.is_ident("doc"), &literal.lit) else { continue };
        let line = line.value();
        let last = all.last_mut().expect("there is always one");
        match line.trim() {
            "" => all.push(String::new()),
            point if point.starts_with("- ") => *last += &format!("\n{point}"),
            text if last.is_empty() => *last += text,
            text => *last += &format!(" {text}"),
        }
    }
    all.retain(|paragraph| !paragraph.is_empty());
    all
}

/// Where a sentence ends: behind a dot and before a space, or with the text.
fn first_sentence(text: &str) -> (&str, &str) {
    match text.split_once(". ") {
        Some((first, rest)) => (first, rest),
        None => (text.strip_suffix('.').unwrap_or_else(|| panic!("{text:?} is no sentence")), ""),
    }
}

fn code(word: &str) -> &str {
    word.trim_matches('`')
}

impl Document {
    fn of(name: &str, attributes: &[Attribute]) -> Self {
        let mut all = paragraphs(attributes).into_iter();
        let first = all.next().unwrap_or_else(|| panic!("{name} has no document"));
        let (brief, rest) = first_sentence(&first);
        let mut document = Self { brief: brief.into(), ..Self::default() };
        document.paragraphs.extend((!rest.is_empty()).then(|| rest.to_owned()));
        for paragraph in all {
            if let Some(text) = paragraph.strip_prefix("Returns: ") {
                document.returns = Some(text.into());
            } else if let Some(text) = paragraph.strip_prefix("Ownership: ") {
                document.ownership = Some(text.into());
            } else if let Some(text) = paragraph.strip_prefix("Options: ") {
                document.options = text.trim_end_matches('.').split(", ").map(|word| code(word).into()).collect();
            } else if let Some(list) = paragraph.strip_prefix("Errors:\n") {
                list.lines().for_each(|point| document.read_failure(name, point));
            } else {
                document.paragraphs.push(paragraph);
            }
        }
        document
    }

    fn read_failure(&mut self, name: &str, point: &str) {
        let point = point.strip_prefix("- ").unwrap_or_else(|| panic!("{name}: {point:?} is no point of a list"));
        if let Some(other) = point.strip_prefix("as ") {
            let (other, without) = other.split_once(" without ").unwrap_or((other, ""));
            let without = without.split(", ").map(|word| code(word).to_owned()).collect();
            self.also_as.push((code(other).trim_end_matches("()").into(), without));
        } else if point.starts_with("`-E") {
            let (errno, text) = point.split_once(": ").unwrap_or_else(|| panic!("{name}: {point:?} has no text"));
            self.failures.push(Failure { errno: Some(code(errno).into()), text: text.into() });
        } else {
            self.failures.push(Failure { errno: None, text: point.into() });
        }
    }
}

impl Sources {
    /// Reads the files of `folder` with these names.
    pub(crate) fn read(folder: &Path, names: &[&str]) -> Self {
        let mut sources = Self::default();
        for name in names {
            let path = folder.join(name).with_extension("rs");
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            file.items.into_iter().for_each(|item| sources.take(item));
        }
        sources
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Fn(function)
                if function.sig.abi.is_some() && function.sig.ident.to_string().starts_with("checkmap_") =>
            {
                let name = function.sig.ident.to_string();
                let parameters = function.sig.inputs.iter().map(|input| {
                    let FnArg::Typed(typed) = input else { panic!("{name} takes self") };
                    let Pat::Ident(parameter) = &*typed.pat else { panic!("{name} has a parameter without a name") };
                    (parameter.ident.to_string(), CType::of(&typed.ty))
                });
                let returned = match &function.sig.output {
                    ReturnType::Default => None,
                    ReturnType::Type(_, returned) => Some(CType::of(returned)),
                };
                let document = Document::of(&name, &function.attrs);
                self.calls.push(Call { parameters: parameters.collect(), returned, document, name });
            }
            Item::Struct(item) if item.ident.to_string().starts_with("checkmap_") => {
                let is_handle = !item.attrs.iter().any(|attribute| attribute.path().is_ident("repr"));
                let mut members = Vec::new();
                if let (Fields::Named(fields), false) = (item.fields, is_handle) {
                    for field in fields.named {
                        let name = field.ident.expect("it has a name").to_string();
                        members.push((name, CType::of(&field.ty), paragraphs(&field.attrs)));
                    }
                }
                let text = paragraphs(&item.attrs);
                self.structs.push(Struct { name: item.ident.to_string(), text, members, is_handle });
            }
            Item::Const(item) if item.ident.to_string().starts_with("CHECKMAP_") => {
                self.constants.push((item.ident.to_string(), paragraphs(&item.attrs).join(" ")));
            }
            Item::Type(item) if item.ident.to_string().starts_with("checkmap_") => {
                self.callbacks.push((item.ident.to_string(), paragraphs(&item.attrs)));
            }
            _ => {}
        }
    }

    pub(crate) fn call(&self, name: &str) -> &Call {
        self.calls.iter().find(|call| call.name == name).unwrap_or_else(|| panic!("there is no {name}()"))
    }

    pub(crate) fn structure(&self, name: &str) -> Option<&Struct> {
        self.structs.iter().find(|structure| structure.name == name)
    }

    /// What a call says of its failures, with those of other calls that it names.
    pub(crate) fn failures(&self, call: &Call) -> Vec<Failure> {
        let mut all = call.document.failures.clone();
        for (other, without) in &call.document.also_as {
            let theirs = self.failures(self.call(other)).into_iter();
            let kept = theirs.filter(|failure| {
                let is_out = failure.errno.as_ref().is_some_and(|errno| without.contains(errno));
                !is_out && !all.iter().any(|ours| (&ours.errno, &ours.text) == (&failure.errno, &failure.text))
            });
            let kept: Vec<Failure> = kept.collect();
            all.extend(kept);
        }
        all
    }
}
