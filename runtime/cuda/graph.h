// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polymoe::cuda {

/// From here on what this thread submits to the stream is recorded instead of done. Until the end
/// nothing may wait for the device, and no device memory may be taken.
void begin_recording(void* stream);
/// What was recorded, ready to be submitted. Throws DeviceError where something forbidden was done.
void* end_recording(void* stream);
/// Ends a recording that failed and forgets it.
void abandon_recording(void* stream) noexcept;

void submit_recording(void* recording, void* stream);
void destroy_recording(void* recording) noexcept;

}  // namespace polymoe::cuda
