/// @file
/// What the shared library shows.
#pragma once

/// Marks what belongs to the binary interface. The library is compiled with hidden symbols: what
/// does not carry this mark cannot be linked to. Classes carry it where their type must be the same
/// on both sides: exceptions that are thrown here and caught there, bases that are derived from.
#if defined(__GNUC__)
#define SOTTO_API __attribute__((visibility("default")))
#else
#define SOTTO_API
#endif
