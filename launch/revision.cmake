# SPDX-License-Identifier: Apache-2.0
# Writes the header with the git revision of SOURCE_DIR; run at every build, so that the revision is
# that of the sources built. The file is touched only when its contents change.
#
#   cmake -DSOURCE_DIR=... -DOUTPUT=... -DVERSION=... -DLIBRARIES="name=version;..." -P revision.cmake
set(revision "unknown")
find_program(git git)
if(git)
  execute_process(COMMAND ${git} rev-parse --short=12 HEAD WORKING_DIRECTORY ${SOURCE_DIR}
                  OUTPUT_VARIABLE head ERROR_QUIET RESULT_VARIABLE failed
                  OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT failed)
    set(revision ${head})
    execute_process(COMMAND ${git} status --porcelain --untracked-files=no
                    WORKING_DIRECTORY ${SOURCE_DIR} OUTPUT_VARIABLE changes ERROR_QUIET)
    if(changes)
      string(APPEND revision "-modified")
    endif()
  endif()
endif()

set(libraries "")
foreach(library IN LISTS LIBRARIES)
  string(REGEX REPLACE "^([^=]+)=(.*)$" "{\"\\1\", \"\\2\"}" entry "${library}")
  string(APPEND libraries "${entry}, ")
endforeach()

set(text "#define POLYMOE_VERSION \"${VERSION}\"
#define POLYMOE_REVISION \"${revision}\"
#define POLYMOE_LIBRARIES ${libraries}
")
set(old "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} old)
endif()
if(NOT old STREQUAL text)
  file(WRITE ${OUTPUT} "${text}")
endif()
