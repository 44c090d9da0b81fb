// Turns a C++ exception into a message that the caller owns.
#pragma once
#include <cstring>
#include <exception>

template <typename Body>
char* guarded(const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("unknown C++ exception");
  }
}
