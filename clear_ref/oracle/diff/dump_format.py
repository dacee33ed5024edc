"""A dump: the tensors of one step of another implementation, in one safetensors file.

metadata   format "clear_ref.dump/1" MUST be present. method, semantics and options (a JSON object)
           MUST be present for the loss to be compared. records MAY be present, for ids and labels
           to be compared: JSON {batch: [{"question", "answer", "image": path or null}]}. A path
           MUST lie below the dump's folder or below --pictures DIR
tensors    any subset of BATCH/NAME, term/NAME and loss. BATCH is one of the method's batches
           (forget, retain, idk, random1, ...), NAME is one of:
  input_ids, attention_mask, labels  int64 [B, T]; labels aligned with input_ids, -100 ignored;
                                     without attention_mask every position is real
  pixel_values, image_grid_thw       as the model takes them
  features [n, D] (or [N, P, D])     of the pictures after the projector (LLaVA) or the merger
                                     (Qwen2-VL, Qwen2.5-VL), in order
  embeddings [B, T, D]               the input of the first decoder layer
  position_ids int64 [B, T]          the input of the rotary embedding; Qwen2-VL and Qwen2.5-VL
                                     [3, B, T]: time, height, width
  hidden [B, T, D]                   after the last norm
  layer_hidden, teacher_layer_hidden  [B, T, D] output of the decoder layer that rmu reads
  logits, teacher_logits [B, T, V]
  nll, teacher_nll, kl_teacher_student, kl_student_teacher, entropy
                                     [B, T] or [B, T - 1]: of the row of logits at each position
  gradient [B, T, V]                 d loss / d logits (rmu: [B, T, D], d loss / d layer_hidden)
  term/NAME, loss                    scalars
Floats are float64, float32, bfloat16 or float16, and finite; no tensor is empty.
"""

FORMAT = "clear_ref.dump/1"
