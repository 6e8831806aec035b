//! One declaration per kind: the struct, its docs, its reader and its schema cannot drift apart.

/// Declares a struct that is read from a table.
///
/// ```
/// use std::time::Duration;
/// brownout::kind! {
///     /// Adds delay to traffic.
///     pub struct Latency("latency") {
///         /// Added once to a round trip.
///         delay: Duration = required,
///         /// Spread around `delay`.
///         jitter: Duration = "0s",
///         /// Which way.
///         direction: String = optional,
///     }
/// }
/// assert_eq!(Latency::KIND, "latency");
/// assert_eq!(Latency::fields()[1].default, "0s");
/// ```
///
/// A field is `required`, `optional` (an `Option`), or has its default as one would write it in TOML. One
/// whose word Rust keeps for itself is written `r#for`.
#[macro_export]
macro_rules! kind {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident($kind:literal) {
            $( $(#[doc = $doc:literal])+ $field:ident : $type:ty = $mode:tt ),* $(,)?
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $crate::kind!(@type $mode $type), )*
        }

        impl $name {
            /// The word that names this kind in a file.
            #[allow(dead_code, reason = "a table that only stands inside others is not asked for its name")]
            pub const KIND: &'static str = $kind;
            /// What it is, for the docs.
            #[allow(dead_code, reason = "a table that only shares its fields with others is not explained")]
            pub const ABOUT: &'static str = concat!($($about, "\n",)+);

            /// What the docs say about each field.
            #[must_use]
            pub fn fields() -> Vec<$crate::file::FieldDoc> {
                vec![$( $crate::file::FieldDoc {
                    name: $crate::file::plain(stringify!($field)),
                    type_name: <$type as $crate::file::Read>::NAME,
                    required: $crate::kind!(@required $mode),
                    default: $crate::kind!(@default $mode),
                    doc: concat!($($doc, "\n",)+),
                    schema: <$type as $crate::file::Read>::schema(),
                } ),*]
            }

            /// Takes this kind's fields out of a table, leaving the rest.
            #[allow(unused_variables, reason = "a kind may have no fields of its own")]
            pub fn take(
                fields: &mut $crate::file::Fields<'_>,
                mistakes: &mut $crate::file::Mistakes,
            ) -> Option<Self> {
                // Every field is read before the first missing one ends it, so that all mistakes are told.
                $( let $field = $crate::kind!(@take $mode $type, fields, $crate::file::plain(stringify!($field)), mistakes); )*
                Some(Self { $( $field: $field?, )* })
            }
        }
    };
    (@type optional $type:ty) => { Option<$type> };
    (@type $mode:tt $type:ty) => { $type };
    (@required required) => { true };
    (@required $mode:tt) => { false };
    (@default required) => { "" };
    (@default optional) => { "" };
    (@default $text:literal) => { $text };
    (@take required $type:ty, $fields:expr, $name:expr, $mistakes:expr) => {
        $fields.required::<$type>($name, $mistakes)
    };
    (@take optional $type:ty, $fields:expr, $name:expr, $mistakes:expr) => {
        match $fields.node($name) {
            Some((_, node)) => <$type as $crate::file::Read>::read(node, $mistakes).map(Some),
            None => Some(None),
        }
    };
    (@take $text:literal $type:ty, $fields:expr, $name:expr, $mistakes:expr) => {
        match $fields.node($name) {
            Some((_, node)) => <$type as $crate::file::Read>::read(node, $mistakes),
            None => $crate::file::default_value::<$type>($text),
        }
    };
}

/// Lets a `kind!` stand as a value inside another table: it is read whole, and unknown keys are mistakes. The
/// literal is what messages call it, such as `"[guard]"`.
#[macro_export]
macro_rules! table {
    ($name:ty, $called:literal) => {
        impl $crate::file::Read for $name {
            const NAME: &'static str = "table";

            fn read(node: &$crate::file::Node, mistakes: &mut $crate::file::Mistakes) -> Option<Self> {
                let mut fields = $crate::file::Fields::open(node, $called, mistakes)?;
                let read = Self::take(&mut fields, mistakes);
                fields.close(mistakes);
                read
            }

            fn schema() -> serde_json::Value {
                $crate::file::object_schema(Self::ABOUT, &Self::fields())
            }
        }
    };
}

/// Lets a type stand as one word out of a few, each with its meaning; the literal is what the type is called.
#[macro_export]
macro_rules! words {
    ($type:ty, $name:literal, $($word:literal => $meant:expr),*) => {
        impl $crate::file::Read for $type {
            const NAME: &'static str = $name;

            fn read(node: &$crate::file::Node, mistakes: &mut $crate::file::Mistakes) -> Option<Self> {
                $crate::file::word(node, mistakes, &[$(($word, $meant)),*])
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({"enum": [$($word),*]})
            }
        }
    };
}
