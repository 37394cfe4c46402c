// Any bytes as a message: decode gives an error or a message that encodes to itself again.
#include <cstdint>
#include <cstdlib>

#include "common/wire/compact.h"
#include "common/wire/message.h"
#include "common/wire/spec.h"

using namespace dray;

// Input: count byte, then two u16 lengths for the first frames, then the frames' bytes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 5) return 0;
  Frames f;
  f.count = static_cast<uint8_t>(data[0] % 5);
  std::string_view rest(reinterpret_cast<const char*>(data) + 5, size - 5);
  size_t first = static_cast<size_t>(data[1]) | static_cast<size_t>(data[2]) << 8;
  size_t second = static_cast<size_t>(data[3]) | static_cast<size_t>(data[4]) << 8;
  f.frame[0] = Bytes::copy(rest.substr(0, std::min(first, rest.size())));
  rest.remove_prefix(std::min(first, rest.size()));
  f.frame[1] = Bytes::copy(rest.substr(0, std::min(second, rest.size())));
  rest.remove_prefix(std::min(second, rest.size()));
  f.frame[2] = Bytes::copy(rest);
  if (f.count > 3) f.count = 3;
  Frames split;
  Bytes whole = Bytes::copy(rest);
  if (split_compact(whole, split)) {
    std::string again(compact_size(split), 0);
    if (again.size() != whole.size()) abort();
    write_compact(split, again.data());
    if (again.substr(1) != whole.view().substr(1)) abort();
  }
  (void)decode_envelope(f);
  (void)with_envelope(f, Envelope{});
  auto in = decode(f);
  if (in) {
    auto again = decode(encode(in->envelope, in->message));
    if (!again || !(again->message == in->message)) abort();
    (void)print(in->message);
  }
  auto spec = decode_spec(std::string_view(reinterpret_cast<const char*>(data), size));
  if (spec && !(decode_spec(encode_spec(*spec)).value() == *spec)) abort();
  return 0;
}
