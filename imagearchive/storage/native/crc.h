#ifndef IMAGEARCHIVE_CRC_H
#define IMAGEARCHIVE_CRC_H

#include <stddef.h>
#include <stdint.h>

enum { CRC_32, CRC_32C, CRC_KINDS };

/* Makes the tables; call it once before anything else. */
void crc_prepare(void);

/* Returns the checksum of `size` bytes behind bytes whose checksum is `before`; 0 for none. */
uint32_t crc_update(int kind, uint32_t before, const uint8_t* data, size_t size);

/* Chooses between instructions of the processor and tables; returns whether it uses the former. */
int crc_use_instructions(int wanted);

#endif
