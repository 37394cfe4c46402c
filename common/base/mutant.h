// Mutants: planted bugs at the guards of the cores. The simulator must find each of them, or it
// does not test the guard. Production code has none of them: without DRAY_MUTANTS the macro is a
// constant false.
#pragma once

#ifdef DRAY_MUTANTS

#include <cstddef>
#include <cstdint>

#include "common/base/mutant_list.h"

namespace dray {

enum class Mutant : uint8_t {
  none,
#define DRAY_MUTANT_NAME(name, what) name,
  DRAY_MUTANT_LIST(DRAY_MUTANT_NAME)
#undef DRAY_MUTANT_NAME
};
inline Mutant g_mutant = Mutant::none;

}  // namespace dray

#define DRAY_MUTANT(name) (::dray::g_mutant == ::dray::Mutant::name)
#else
#define DRAY_MUTANT(name) (false)
#endif
