// Gradient of y = x * inverse_rms(x) * weight: writes grad_x, adds to grad_weight.
template <class T, class G>
void norm_backward(const T* x, const float* weight, const G* grad, int64_t size, float eps, T* grad_x,
                   float* grad_weight) {
  const float inverse = inverse_rms(x, size, eps);
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < size; i++) dot += widen(grad[i]) * weight[i] * widen(x[i]);
  dot *= inverse * inverse / size;
#pragma omp simd
  for (int64_t i = 0; i < size; i++) {
    const float g = widen(grad[i]) * inverse, value = widen(x[i]);
    grad_weight[i] += g * value;
    grad_x[i] = narrow<T>(g * weight[i] - value * dot * inverse);
  }
}

constexpr int64_t QUERIES = 24;  // rows of scores made at a time

// Sequences that begin alike, as one key head sees them: a stem, and branches that each go on from its end. Segments
// lie one after another, a tree's stem before its branches; most trees are a stem alone.
struct Tree {
  const int64_t* offsets;  // where each of its segments begins, and where the last one ends
  int64_t segments, kv_head;

  int64_t length(int64_t segment) const { return offsets[segment + 1] - offsets[segment]; }
  int64_t before(int64_t segment) const { return segment == 0 ? 0 : length(0); }  // tokens of the stem in front of it
  int64_t tokens() const { return offsets[segments] - offsets[0]; }
  int64_t longest() const {
    int64_t most = length(0);
    for (int64_t i = 1; i < segments; i++) most = std::max(most, length(0) + length(i));
    return most;
  }
};

// Largest first, so that no thread is left with a large one.
std::vector<Tree> attention_items(int64_t trees, const int64_t* first_segments, const int64_t* offsets,
                                  int64_t kv_heads) {
  std::vector<Tree> items;
  items.reserve(trees * kv_heads);
  for (int64_t t = 0; t < trees; t++)
    for (int64_t head = 0; head < kv_heads; head++)
      items.push_back({offsets + first_segments[t], first_segments[t + 1] - first_segments[t], head});
  std::stable_sort(items.begin(), items.end(), [](auto& a, auto& b) { return a.tokens() > b.tokens(); });
  return items;
}

// work(segment, before) for each of a tree's segments, with the keys and values that it sees, [before + length, size],
// those of the stem before it first.
template <class T, class Work>
void each_segment(const Tree& tree, const T* keys, const T* values, int64_t row, int64_t size, T* key_rows,
                  T* value_rows, const Work& work) {
  for (int64_t i = 0; i < tree.segments; i++) {
    const int64_t before = tree.before(i), from = tree.offsets[i] * row + tree.kv_head * size;
    copy_rows(keys + from, row, tree.length(i), size, size, 1.0f, key_rows + before * size);
    copy_rows(values + from, row, tree.length(i), size, size, 1.0f, value_rows + before * size);
    work(i, before);
  }
}

// ---------------------------------------------------------------------------------------------------------- operations

template <class T>
void rms_norm(int64_t rows, int64_t size, float eps, const T* x, const float* weight, T* y) {
  each_row(rows, size, [=](int64_t row) {
    rms_norm_row(x + row * size, weight, size, eps, y + row * size);
  });
}

template <class T>
void rms_norm_backward(int64_t rows, int64_t size, float eps, const T* x, const float* weight, const T* grad, T* grad_x,
                       float* grad_weight) {
  PartialSums sums(rows, size, size);
  each_chunk(rows, size, [&](int64_t chunk, int64_t first, int64_t last) {
    for (int64_t at = first * size; at < last * size; at += size)
      norm_backward(x + at, weight, grad + at, size, eps, grad_x + at, sums.of(chunk));
  });
  sums.total(grad_weight);
}

// qkv [N, H + 2K, E] -> q [N, H, E] and k [N, K, E], normed where there is a weight and rotated by position, and
// v [N, K, E].
template <class T>
bool rope_norm(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t size, float eps, const T* qkv,
               const float* q_weight, const float* k_weight, const float* cos, const float* sin,
               const int64_t* positions, int64_t max_positions, T* q, T* k, T* v) {
  if (!within(positions, tokens, max_positions)) return false;
  const int64_t row = (heads + 2 * kv_heads) * size;
  each_row(tokens, row, [&](int64_t n) {
    const T* from = qkv + n * row;
    const float *c = cos + positions[n] * size, *s = sin + positions[n] * size;
    for (int64_t head = 0; head < heads + kv_heads; head++, from += size) {
      const bool query = head < heads;
      T* to = query ? q + (n * heads + head) * size : k + (n * kv_heads + head - heads) * size;
      norm_rotate(from, query ? q_weight : k_weight, eps, c, s, size, 1.0f, to);
    }
    std::copy(from, from + kv_heads * size, v + n * kv_heads * size);
  });
  return true;
}

// grad_weights [2, E]: of the query weight and of the key weight, zero where there is none.
template <class T>
void rope_norm_backward(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t size, float eps, const T* qkv,
                        const float* q_weight, const float* k_weight, const float* cos, const float* sin,
                        const int64_t* positions, const T* grad_q, const T* grad_k, const T* grad_v, T* grad_qkv,
                        float* grad_weights) {
  const int64_t row = (heads + 2 * kv_heads) * size, middle = size / 2;
  PartialSums sums(tokens, row, 2 * size);
  each_chunk(tokens, row, [&](int64_t chunk, int64_t first, int64_t last) {
    float* turned = scratch(MIXED, size);
    for (int64_t n = first; n < last; n++) {
      const T* x = qkv + n * row;
      T* grad_x = grad_qkv + n * row;
      const float *c = cos + positions[n] * size, *s = sin + positions[n] * size;
      for (int64_t head = 0; head < heads + kv_heads; head++, x += size, grad_x += size) {
        const bool query = head < heads;
        const T* grad = query ? grad_q + (n * heads + head) * size : grad_k + (n * kv_heads + head - heads) * size;
#pragma omp simd
        for (int64_t i = 0; i < middle; i++) {
          const float a = widen(grad[i]), b = widen(grad[i + middle]);
          turned[i] = a * c[i] + b * s[i + middle];
          turned[i + middle] = b * c[i + middle] - a * s[i];
        }
        const float* weight = query ? q_weight : k_weight;
        if (weight) norm_backward(x, weight, turned, size, eps, grad_x, sums.of(chunk) + (query ? 0 : size));
        else write_rows(turned, size, 1, size, 1.0f, grad_x, size);
      }
      std::copy(grad_v + n * kv_heads * size, grad_v + (n + 1) * kv_heads * size, grad_x);
    }
  });
  sums.total(grad_weights);
}

// gate_up [rows, 2, size] -> silu(gate) * up [rows, size]
template <class T>
void silu_mul(int64_t rows, int64_t size, const T* gate_up, T* y) {
  each_row(rows, 2 * size, [=](int64_t row) {
    const T* gate = gate_up + row * 2 * size;
    silu_mul_row(gate, gate + size, size, y + row * size);
  });
}

template <class T>
void silu_mul_backward(int64_t rows, int64_t size, const T* gate_up, const T* grad, T* grad_gate_up) {
  each_row(rows, 2 * size, [=](int64_t row) {
    const T *gate = gate_up + row * 2 * size, *up = gate + size, *g = grad + row * size;
    T *grad_gate = grad_gate_up + row * 2 * size, *grad_up = grad_gate + size;
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
      const float x = widen(gate[i]), open = sigmoid(x), slope = open * (1.0f + x * (1.0f - open));
      grad_gate[i] = narrow<T>(widen(g[i]) * widen(up[i]) * slope);
      grad_up[i] = narrow<T>(widen(g[i]) * x * open);
    }
  });
}

// Causal attention within each sequence. Also lse [N, H]: the log of the sum of exponentials of each query's scores.
template <class T, class O = T>
void packed_attention(int64_t trees, const int64_t* first_segments, const int64_t* offsets, int64_t heads,
                      int64_t kv_heads, int64_t size, const T* q, const T* k, const T* v, O* out, float* lse) {
  using L = Lane<T>;
  const int64_t group = heads / kv_heads, wide = round_up(size, W), q_row = heads * size, k_row = kv_heads * size;
  const int64_t steps = size / PAIR<T>;
  const auto items = attention_items(trees, first_segments, offsets, kv_heads);
  each(items.size(), [&](int64_t index) {
    const Tree& tree = items[index];
    const int64_t longest = tree.longest(), padded = round_up(longest, W), score_row = padded + W;
    T* key_rows = scratch<T>(KEY_ROWS, longest * size);
    T* value_rows = scratch<T>(VALUE_ROWS, longest * size);
    L* keys_across = scratch<L>(ACROSS, padded * steps);
    T* values = scratch<T>(VALUES, padded * wide);
    T* queries = scratch<T>(QUERY_TILE, QUERIES * size);
    float* scores = scratch(SCORES, QUERIES * score_row);
    T* weights = scratch<T>(WEIGHTS, QUERIES * score_row);
    float* mixed = scratch(MIXED, QUERIES * wide);
    each_segment(tree, k, v, k_row, size, key_rows, value_rows, [&](int64_t segment, int64_t before) {
      const int64_t length = tree.length(segment), all = before + length;
      const int64_t across = before / W * W, paired = before / PAIR<T> * PAIR<T>;
      copy_across(lanes_of(key_rows + across * size), steps, all - across, steps, keys_across + across * steps);
      copy_paired(value_rows + paired * size, size, all - paired, size, wide, 1.0f, values + paired * wide);
      for (int64_t head = tree.kv_head * group; head < (tree.kv_head + 1) * group; head++)
        for (int64_t begin = 0; begin < length; begin += QUERIES) {
          const int64_t rows = std::min(QUERIES, length - begin), seen = before + begin + rows;
          const int64_t vectors = divide_up(seen, W), token = tree.offsets[segment] + begin;
          const int64_t q_at = token * q_row + head * size;
          copy_rows(q + q_at, q_row, rows, size, size, attention_scale(size), queries);
          product<L, L>(rows, vectors, steps, {lanes_of(queries), steps, 1}, {keys_across, W, steps * W}, scores,
                        score_row, false);
          float sums[QUERIES];
          for (int64_t i = 0; i < rows; i++) {
            float most;
            sums[i] = exponentials(scores + i * score_row, before + begin + i + 1, vectors, most);
            lse[(token + i) * heads + head] = most + std::log(sums[i]);
          }
          copy_rows(scores, score_row, rows, vectors * W, score_row, 1.0f, weights);
          product<L, L>(rows, wide / W, divide_up(seen, PAIR<T>), {lanes_of(weights), score_row / PAIR<T>, 1},
                        {lanes_of(values), wide, W}, mixed, wide, false);
          for (int64_t i = 0; i < rows; i++)
            write_rows(mixed + i * wide, wide, 1, size, 1.0f / sums[i], out + q_at + i * q_row, q_row);
        }
    });
  });
}

// The probabilities are made again from lse; a key head's gradients are summed over its queries in order, those of a
// stem over its branches too.
template <class T>
void packed_attention_backward(int64_t trees, const int64_t* first_segments, const int64_t* offsets, int64_t heads,
                               int64_t kv_heads, int64_t size, const T* q, const T* k, const T* v, const T* out,
                               const float* lse, const T* grad, T* grad_q, T* grad_k, T* grad_v) {
  using L = Lane<T>;
  const int64_t group = heads / kv_heads, wide = round_up(size, W), q_row = heads * size, k_row = kv_heads * size;
  const int64_t steps = size / PAIR<T>;
  const auto items = attention_items(trees, first_segments, offsets, kv_heads);
  each(items.size(), [&](int64_t index) {
    const Tree& tree = items[index];
    const int64_t longest = tree.longest(), padded = round_up(longest, W), score_row = padded + W;
    T* key_rows = scratch<T>(KEY_ROWS, longest * size);
    T* value_rows = scratch<T>(VALUE_ROWS, longest * size);
    T* keys = scratch<T>(KEYS, padded * wide);
    L* keys_across = scratch<L>(ACROSS, padded * steps);
    L* values_across = scratch<L>(VALUES, padded * steps);
    T* queries = scratch<T>(QUERY_TILE, QUERIES * size);
    T* queries_paired = scratch<T>(QUERIES_PAIRED, QUERIES * wide);
    T* grads = scratch<T>(GRADS, QUERIES * size);
    T* grads_paired = scratch<T>(GRADS_PAIRED, QUERIES * wide);
    float* scores = scratch(SCORES, QUERIES * score_row);
    T* weights_paired = scratch<T>(WEIGHTS_PAIRED, QUERIES * score_row);
    float* grad_scores = scratch(GRAD_SCORES, QUERIES * score_row);
    T* slopes = scratch<T>(SLOPES, QUERIES * score_row);
    T* slopes_paired = scratch<T>(SLOPES_PAIRED, QUERIES * score_row);
    float* mixed = scratch(MIXED, QUERIES * wide);
    float* grad_keys = scratch(GRAD_KEYS, longest * wide);
    float* grad_values = scratch(GRAD_VALUES, longest * wide);
    const auto write = [&](int64_t segment, int64_t before) {
      const int64_t length = tree.length(segment), at = tree.offsets[segment] * k_row + tree.kv_head * size;
      write_rows(grad_keys + before * wide, wide, length, size, 1.0f, grad_k + at, k_row);
      write_rows(grad_values + before * wide, wide, length, size, 1.0f, grad_v + at, k_row);
    };
    each_segment(tree, k, v, k_row, size, key_rows, value_rows, [&](int64_t segment, int64_t before) {
      const int64_t length = tree.length(segment), all = before + length;
      const int64_t across = before / W * W, paired = before / PAIR<T> * PAIR<T>;
      copy_paired(key_rows + paired * size, size, all - paired, size, wide, 1.0f, keys + paired * wide);
      copy_across(lanes_of(key_rows + across * size), steps, all - across, steps, keys_across + across * steps);
      copy_across(lanes_of(value_rows + across * size), steps, all - across, steps, values_across + across * steps);
      std::fill(grad_keys + before * wide, grad_keys + all * wide, 0.0f);
      std::fill(grad_values + before * wide, grad_values + all * wide, 0.0f);
      for (int64_t head = tree.kv_head * group; head < (tree.kv_head + 1) * group; head++)
        for (int64_t begin = 0; begin < length; begin += QUERIES) {
          const int64_t rows = std::min(QUERIES, length - begin), seen = before + begin + rows;
          const int64_t vectors = divide_up(seen, W), pairs = divide_up(rows, PAIR<T>);
          const int64_t token = tree.offsets[segment] + begin, q_at = token * q_row + head * size;
          const float scale = attention_scale(size);
          copy_rows(q + q_at, q_row, rows, size, size, scale, queries);
          copy_paired(q + q_at, q_row, rows, size, wide, scale, queries_paired);
          copy_rows(grad + q_at, q_row, rows, size, size, 1.0f, grads);
          copy_paired(grad + q_at, q_row, rows, size, wide, 1.0f, grads_paired);
          product<L, L>(rows, vectors, steps, {lanes_of(queries), steps, 1}, {keys_across, W, steps * W}, scores,
                        score_row, false);
          product<L, L>(rows, vectors, steps, {lanes_of(grads), steps, 1}, {values_across, W, steps * W}, grad_scores,
                        score_row, false);
          for (int64_t i = 0; i < rows; i++) {
            const T *mixed_row = out + q_at + i * q_row, *grad_row = grad + q_at + i * q_row;
            float mean = 0;
#pragma omp simd reduction(+ : mean)
            for (int64_t j = 0; j < size; j++) mean += widen(mixed_row[j]) * widen(grad_row[j]);
            float *row = scores + i * score_row, *slope_row = grad_scores + i * score_row;
            std::fill(row + before + begin + i + 1, row + vectors * W, -INFINITY);
            for (int64_t j = 0; j < vectors * W; j += W) {
              const Vector weight = exponential(load(row + j) - lse[(token + i) * heads + head]);
              store(weight, row + j);
              store(weight * (load(slope_row + j) - mean), slope_row + j);
            }
          }
          copy_paired(scores, score_row, rows, vectors * W, score_row, 1.0f, weights_paired);
          copy_paired(grad_scores, score_row, rows, vectors * W, score_row, 1.0f, slopes_paired);
          copy_rows(grad_scores, score_row, rows, vectors * W, score_row, 1.0f, slopes);
          product<L, L>(rows, wide / W, divide_up(seen, PAIR<T>), {lanes_of(slopes), score_row / PAIR<T>, 1},
                        {lanes_of(keys), wide, W}, mixed, wide, false);
          write_rows(mixed, wide, rows, size, scale, grad_q + q_at, q_row);
          product<L, L>(seen, wide / W, pairs, {lanes_of(slopes_paired), 1, score_row},
                        {lanes_of(queries_paired), wide, W}, grad_keys, wide, true);
          product<L, L>(seen, wide / W, pairs, {lanes_of(weights_paired), 1, score_row},
                        {lanes_of(grads_paired), wide, W}, grad_values, wide, true);
        }
      if (segment > 0) write(segment, before);
    });
    write(0, 0);
  });
}

// logits [rows, size] -> log-probability of each target, the entropy of each row (nats), and lse for the backward.
template <class T>
bool token_logprobs(int64_t rows, int64_t size, const T* logits, const int64_t* targets, float* logprobs,
                    float* entropy, float* lse) {
  if (!within(targets, rows, size)) return false;
  each_row(rows, size, [=](int64_t row) {
    const T* x = logits + row * size;
    float most = -INFINITY, sum = 0, weighted = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < size; i++) most = widen(x[i]) > most ? widen(x[i]) : most;
#pragma omp simd reduction(+ : sum, weighted)
    for (int64_t i = 0; i < size; i++) {
      const float below = widen(x[i]) - most, e = exponential(below);
      sum += e;
      weighted += e == 0.0f ? 0.0f : e * below;
    }
    lse[row] = most + std::log(sum);
    logprobs[row] = widen(x[targets[row]]) - lse[row];
    entropy[row] = std::log(sum) - weighted / sum;
  });
  return true;
}

template <class T>
void token_logprobs_backward(int64_t rows, int64_t size, const T* logits, const int64_t* targets, const float* lse,
                             const float* grad, T* grad_logits) {
  each_row(rows, size, [=](int64_t row) {
    const T* x = logits + row * size;
    T* to = grad_logits + row * size;
    const int64_t target = targets[row];
#pragma omp simd
    for (int64_t i = 0; i < size; i++) to[i] = narrow<T>(-grad[row] * exponential(widen(x[i]) - lse[row]));
    to[target] = narrow<T>(grad[row] * (1.0f - exponential(widen(x[target]) - lse[row])));
  });
}
