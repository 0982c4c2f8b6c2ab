#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

// ------------------------------------------------------------------------------------------------- numbers and vectors

#if defined(__AVX512F__)
constexpr int W = 16, TILE_VECTORS = 4;  // floats in a vector; vectors of one row that a product keeps in registers
#elif defined(__AVX__)
constexpr int W = 8, TILE_VECTORS = 2;
#elif defined(__aarch64__)
constexpr int W = 4, TILE_VECTORS = 4;
#else
constexpr int W = 4, TILE_VECTORS = 2;
#endif
constexpr int TILE_ROWS = 6;  // rows that a product keeps in registers
#if defined(__AVX512BF16__)
constexpr bool PAIRED = true;  // whether bf16 numbers are multiplied two by two, or widened and then multiplied
#else
constexpr bool PAIRED = false;
#endif

typedef float Vector __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * W), aligned(2), may_alias));
typedef int8_t Bytes __attribute__((vector_size(W), aligned(1), may_alias));

template <class To, class From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

enum BFloat16 : uint16_t {};  // not a struct: compilers vectorise over numbers only

inline float widen(float x) { return x; }
inline float widen(BFloat16 x) { return bits<float>(uint32_t(x) << 16); }

template <class T>
inline T narrow(float x) {
  return x;
}
template <>
inline BFloat16 narrow<BFloat16>(float x) {  // to nearest, ties to even; NaN stays NaN
  const uint32_t u = bits<uint32_t>(x);
  return BFloat16((x != x ? 0x7fc00000u : u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline Vector load(const BFloat16* p) {
#if defined(__AVX2__) && !defined(__AVX512F__)  // gcc 12 makes five instructions of the conversion below
  const Words words = bits<Words>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  const Words words = __builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words);
#endif
  return bits<Vector>(words << 16);
}

inline Vector load(const int8_t* p) {
#if defined(__AVX512F__)
  const Integers wide = bits<Integers>(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  const Integers wide = bits<Integers>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  const Integers wide = __builtin_convertvector(*reinterpret_cast<const Bytes*>(p), Integers);
#endif
  return __builtin_convertvector(wide, Vector);
}

inline void store(Vector x, float* p) { *reinterpret_cast<Vector*>(p) = x; }

enum Pair : uint32_t {};  // two bf16 numbers, the first in the low half

inline Words load(const Pair* p) { return *reinterpret_cast<const Words*>(p); }

// In assembly where gcc 12 does harm: it splits the one chain of a narrow tile into products and sums, which rounds
// otherwise than a wide tile, and for Pair it spills a tile's sums.
inline Vector multiply_add(Vector sum, float left, Vector right) {
#if defined(__FMA__)
  const Vector both = left - Vector{};
  asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(right), "v"(both));
  return sum;
#else
  return sum + left * right;
#endif
}

inline Vector multiply_add(Vector sum, BFloat16 left, Vector right) { return multiply_add(sum, widen(left), right); }

#if defined(__AVX512BF16__)
inline Vector multiply_add(Vector sum, Pair left, Words right) {
  const Words both = Words{} + uint32_t(left);
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(right), "v"(both));
  return sum;
}
#endif

// e^x to 2 ulp, of a float or of a Vector (U: unsigned integers of the same width): Cephes' polynomial after
// x = n log 2 + r. Zero below e^-87, infinite above e^88, NaN for NaN.
template <class U, class F>
inline F exponential(F x) {
  const F least = F{} - 87.0f, most = F{} + 88.0f;
  const F shifted = x * 1.44269504f + 12582912.0f;  // the last bits of 1.5 * 2^23 + n hold n
  const F n = shifted - 12582912.0f;
  const F r = x - n * 0.693359375f + n * 2.12194440e-4f;
  F p = F{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const F result = p * bits<F>((bits<U>(shifted) << 23) + 0x3f800000u);
  return x < least ? F{} : x > most ? F{} + INFINITY : result;
}
inline float exponential(float x) { return exponential<uint32_t, float>(x); }
inline Vector exponential(Vector x) { return exponential<Words, Vector>(x); }

// The lanes of a vector, two by two: add(a, b) of all of them.
template <class Add>
inline float across(Vector x, Add add) {
  float lanes[W];
  std::memcpy(lanes, &x, sizeof lanes);
  for (int width = W / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] = add(lanes[i], lanes[i + width]);
  return lanes[0];
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

bool within(const int64_t* indices, int64_t count, int64_t limit) {
  return std::all_of(indices, indices + count, [=](int64_t i) { return 0 <= i && i < limit; });
}

// -------------------------------------------------------------------------------------------- threads and their memory

using Range = void (*)(int64_t begin, int64_t end, void* context);
int32_t (*parallel_for)(int64_t begin, int64_t end, int64_t grain, Range function, void* context) = nullptr;

// work(i) for every i below `items`; a thread that is free takes the next.
template <class Work>
void each(int64_t items, const Work& work) {
  struct Queue {
    const Work& work;
    int64_t items;
    std::atomic<int64_t> next;
  } queue{work, items, {0}};
  const Range drain = [](int64_t, int64_t, void* context) {
    auto& queue = *static_cast<Queue*>(context);
    for (int64_t i; (i = queue.next.fetch_add(1)) < queue.items;) queue.work(i);
  };
  if (parallel_for == nullptr || items < 2) drain(0, items, &queue);
  else if (parallel_for(0, items, 1, drain, &queue) != 0) std::abort();
}

// work(chunk, first, last) over rows, in chunks of about CHUNK numbers whatever the number of threads.
constexpr int64_t CHUNK = 32768;
int64_t rows_per_chunk(int64_t size) { return std::max<int64_t>(1, CHUNK / std::max<int64_t>(1, size)); }

template <class Work>
void each_chunk(int64_t rows, int64_t size, const Work& work) {
  const int64_t step = rows_per_chunk(size);
  each(divide_up(rows, step), [&](int64_t chunk) { work(chunk, chunk * step, std::min(rows, (chunk + 1) * step)); });
}

template <class Work>
void each_row(int64_t rows, int64_t size, const Work& work) {
  each_chunk(rows, size, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) work(row);
  });
}

// Sums that each chunk makes on its own, [chunks, size], and their total in the order of chunks.
struct PartialSums {
  int64_t size;
  std::vector<float> sums;
  PartialSums(int64_t rows, int64_t row_size, int64_t size)
      : size(size), sums(size * divide_up(rows, rows_per_chunk(row_size))) {}
  float* of(int64_t chunk) { return sums.data() + chunk * size; }
  void total(float* out) const {
    std::fill(out, out + size, 0.0f);
    for (size_t i = 0; i < sums.size(); i++) out[i % size] += sums[i];
  }
};

// Memory that a thread keeps between items, by slot, aligned to a cache line.
enum Slot {
  KEYS, ACROSS, VALUES, QUERY_TILE, SCORES, SUMS, MIXED, KEY_ROWS, VALUE_ROWS,
  GRAD_KEYS, GRAD_VALUES, GRAD_SCORES, GRADS, GRADS_PAIRED, RESIDUAL, NORMED, WIDE, PROMPT,
  QUERIES_PAIRED, WEIGHTS, WEIGHTS_PAIRED, SLOPES, SLOPES_PAIRED, LOGITS, SLOTS };

template <class T = float>
T* scratch(Slot slot, int64_t count) {
  struct Memory {
    void* data = nullptr;
    int64_t bytes = 0;
    ~Memory() { std::free(data); }
  };
  static thread_local Memory slots[SLOTS];
  Memory& memory = slots[slot];
  const int64_t bytes = count * sizeof(T);
  if (memory.bytes < bytes) {
    std::free(memory.data);
    memory.bytes = round_up(bytes, 4096);
    memory.data = std::aligned_alloc(64, memory.bytes);
    if (memory.data == nullptr) std::abort();
  }
  return static_cast<T*>(memory.data);
}

// ----------------------------------------------------------------------------------------------- products in registers

// What a product multiplies lane by lane: numbers as they are stored, or two bf16 numbers at once. PAIR is how many.
template <class S>
using Lane = std::conditional_t<PAIRED && std::is_same_v<S, BFloat16>, Pair, S>;
template <class S>
constexpr int64_t PAIR = sizeof(Lane<S>) / sizeof(S);

// The left side of a product whose right side is stored as S: numbers that are not paired are best widened beforehand.
template <class S>
using Left = std::conditional_t<PAIRED && std::is_same_v<S, BFloat16>, S, float>;

template <class S>
const Lane<S>* lanes_of(const S* data) {
  return reinterpret_cast<const Lane<S>*>(data);
}

template <class L>
struct Strided {  // element (i, k) is data[i * row + k * step]
  const L* data;
  int64_t row, step;
};

template <class S>
struct Panels {  // vector j of row k starts at data[k * step + j * next]
  const S* data;
  int64_t step, next;
  bool distant = false;  // not in the first caches: a tile asks for what the next one reads
};

template <int R, int C, class L, class S>
inline void product_tile(int64_t depth, Strided<L> a, Panels<S> b, float* out, int64_t out_row, bool add) {
  Vector sums[R][C];
  for (int i = 0; i < R; i++)
    for (int j = 0; j < C; j++) sums[i][j] = add ? load(out + i * out_row + j * W) : Vector{};
  for (int64_t k = 0; k < depth; k++) {
    decltype(load(b.data)) right[C];
    for (int j = 0; j < C; j++) right[j] = load(b.data + k * b.step + j * b.next);
    if (b.distant)
      for (int j = C; j < 2 * C; j++) __builtin_prefetch(b.data + k * b.step + j * b.next, 0, 2);
    for (int i = 0; i < R; i++) {
      const L left = a.data[i * a.row + k * a.step];
      for (int j = 0; j < C; j++) sums[i][j] = multiply_add(sums[i][j], left, right[j]);
    }
  }
  for (int i = 0; i < R; i++)
    for (int j = 0; j < C; j++) store(sums[i][j], out + i * out_row + j * W);
}

template <int C, class L, class S>
inline void product_columns(int64_t rows, int64_t depth, Strided<L> a, Panels<S> b, float* out, int64_t out_row,
                            bool add) {
  if (rows == 0) return;
  const int64_t step = divide_up(rows, divide_up(rows, TILE_ROWS));  // 8 rows are 4 and 4: sums of 2 wait for each other
  for (; rows > 0; rows -= step, a.data += step * a.row, out += step * out_row, b.distant = false) {
    switch (std::min(rows, step)) {
      case 1: product_tile<1, C>(depth, a, b, out, out_row, add); break;
      case 2: product_tile<2, C>(depth, a, b, out, out_row, add); break;
      case 3: product_tile<3, C>(depth, a, b, out, out_row, add); break;
      case 4: product_tile<4, C>(depth, a, b, out, out_row, add); break;
      case 5: product_tile<5, C>(depth, a, b, out, out_row, add); break;
      default: product_tile<TILE_ROWS, C>(depth, a, b, out, out_row, add);
    }
  }
}

// out[rows, vectors * W] (+)= a[rows, depth] b[depth, vectors * W]. Each number is one sum in the order of depth,
// however many rows and vectors there are.
template <class L, class S>
void product(int64_t rows, int64_t vectors, int64_t depth, Strided<L> a, Panels<S> b, float* out, int64_t out_row,
             bool add) {
  while (vectors > 0) {
    const int step = rows == 1 && vectors >= 4 ? 4 : vectors >= TILE_VECTORS ? TILE_VECTORS : vectors >= 2 ? 2 : 1;
    if (step > TILE_VECTORS) product_tile<1, 4>(depth, a, b, out, out_row, add);  // two sums would wait for each other
    else if (step == TILE_VECTORS) product_columns<TILE_VECTORS>(rows, depth, a, b, out, out_row, add);
    else if (step == 2) product_columns<2>(rows, depth, a, b, out, out_row, add);
    else product_columns<1>(rows, depth, a, b, out, out_row, add);
    vectors -= step;
    b.data += step * b.next;
    out += step * W;
  }
}

// ---------------------------------------------------------------------------------------------------------------- rows

template <class T>
float inverse_rms(const T* x, int64_t size, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; i++) sum += widen(x[i]) * widen(x[i]);
  return 1.0f / std::sqrt(sum / size + eps);
}

// to[rows, wide] = scale * from[rows, size], zero beyond size.
template <class S, class T>
void copy_rows(const S* from, int64_t from_row, int64_t rows, int64_t size, int64_t wide, float scale, T* to) {
  for (int64_t i = 0; i < rows; i++, from += from_row, to += wide) {
#pragma omp simd
    for (int64_t j = 0; j < size; j++) to[j] = narrow<T>(scale * widen(from[j]));
    std::fill(to + size, to + wide, T{});
  }
}

// to[rows / W, size, W]: W rows side by side, so that a product yields W scores in one vector. Zero beyond the rows.
template <class L>
void copy_across(const L* from, int64_t from_row, int64_t rows, int64_t size, L* to) {
  for (int64_t first = 0; first < rows; first += W, to += size * W) {
    const int64_t count = std::min<int64_t>(W, rows - first);
    for (int64_t j = 0; j < size; j++) {
      const L* column = from + first * from_row + j;
      for (int64_t i = 0; i < count; i++) to[j * W + i] = column[i * from_row];
      for (int64_t i = count; i < W; i++) to[j * W + i] = L{};
    }
  }
}

// to[rows / PAIR, wide, PAIR]: rows as a product's depth, times a scale. Zero beyond the rows and beyond size.
template <class S, class T>
void copy_paired(const S* from, int64_t from_row, int64_t rows, int64_t size, int64_t wide, float scale, T* to) {
  if constexpr (PAIR<T> == 1) {
    copy_rows(from, from_row, rows, size, wide, scale, to);
  } else {
    for (int64_t first = 0; first < rows; first += 2, to += wide * 2) {
      uint32_t* words = reinterpret_cast<uint32_t*>(to);
      const S *low = from + first * from_row, *high = low + from_row;
      if (first + 1 < rows) {
#pragma omp simd
        for (int64_t j = 0; j < size; j++)
          words[j] = narrow<T>(scale * widen(low[j])) | uint32_t(narrow<T>(scale * widen(high[j]))) << 16;
      } else {
#pragma omp simd
        for (int64_t j = 0; j < size; j++) words[j] = narrow<T>(scale * widen(low[j]));
      }
      std::fill(words + size, words + wide, 0u);
    }
  }
}

// to = from * weight / root mean square (as it is without a weight), then rotated by half by cos and sin.
template <class T, class U>
void norm_rotate(const T* from, const float* weight, float eps, const float* cos, const float* sin, int64_t size,
                 float scale, U* to) {
  const int64_t middle = size / 2;
  const float inverse = scale * (weight ? inverse_rms(from, size, eps) : 1.0f);
#pragma omp simd
  for (int64_t i = 0; i < middle; i++) {
    const float a = widen(from[i]) * inverse * (weight ? weight[i] : 1.0f);
    const float b = widen(from[i + middle]) * inverse * (weight ? weight[i + middle] : 1.0f);
    to[i] = narrow<U>(a * cos[i] - b * sin[i]);
    to[i + middle] = narrow<U>(b * cos[i + middle] + a * sin[i + middle]);
  }
}

template <class T, class U>
void rms_norm_row(const T* from, const float* weight, int64_t size, float eps, U* to) {
  const float inverse = inverse_rms(from, size, eps);
#pragma omp simd
  for (int64_t i = 0; i < size; i++) to[i] = narrow<U>(widen(from[i]) * inverse * weight[i]);
}

template <class T, class U>
void silu_mul_row(const T* gate, const T* up, int64_t size, U* to) {
#pragma omp simd
  for (int64_t i = 0; i < size; i++) to[i] = narrow<U>(widen(gate[i]) * sigmoid(widen(gate[i])) * widen(up[i]));
}

template <class T>
void write_rows(const float* from, int64_t wide, int64_t rows, int64_t size, float scale, T* to, int64_t to_row) {
  for (int64_t i = 0; i < rows; i++, from += wide, to += to_row)
#pragma omp simd
    for (int64_t j = 0; j < size; j++) to[j] = narrow<T>(scale * from[j]);
}

// scores = e^(scores - most) for the first `count`, where `most` is their maximum, then zero up to a whole number of
// `vectors`. Returns the sum.
float exponentials(float* scores, int64_t count, int64_t vectors, float& most) {
  std::fill(scores + count, scores + vectors * W, -INFINITY);
  Vector high = load(scores), sum = {};
  for (int64_t i = 1; i < vectors; i++) high = load(scores + i * W) > high ? load(scores + i * W) : high;
  most = across(high, [](float a, float b) { return a > b ? a : b; });
  for (int64_t i = 0; i < vectors; i++) {
    const Vector e = exponential(load(scores + i * W) - most);
    store(e, scores + i * W);
    sum += e;
  }
  return across(sum, [](float a, float b) { return a + b; });
}

inline float attention_scale(int64_t size) { return 1.0f / std::sqrt(float(size)); }

}  // namespace
